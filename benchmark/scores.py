"""Statistics over tasks and seeds, as Agarwal et al. 2021 recommend (arXiv:2108.13264, rliable).

The runs of one script are a mapping from task to an array of scores, one a seed. Scores of different tasks
are comparable once they are normalised. Every interval is the 95 % percentile interval of a stratified
bootstrap: of each task, as many seeds are drawn as there are. A task with one seed adds nothing to it.
"""

from collections.abc import Callable, Mapping

import numpy as np

RESAMPLES = 2000
Scores = Mapping[str, np.ndarray]  # (seeds,) of each task


def normalize(score: np.ndarray, random: float, reference: float) -> np.ndarray:
    """0 is what uniformly random actions bring, 1 the reference."""
    return (score - random) / (reference - random)


def interquartile_mean(scores: Scores) -> float:
    """The mean of the middle half of all runs, without the best and the worst quarter."""
    values = np.sort(np.concatenate(list(scores.values())))
    cut = len(values) // 4
    return float(values[cut : len(values) - cut].mean())


def probability_of_improvement(scores: Scores, others: Scores) -> float:
    """How often a run of the first beats one of the second on a task, ties counting half; the mean over the
    tasks that both have."""
    return float(np.mean([_wins(scores[task], others[task]) for task in scores if task in others]))


def _wins(ours: np.ndarray, theirs: np.ndarray) -> float:
    differences = ours[:, None] - theirs  # (S, S')
    return float(np.mean(differences > 0) + np.mean(differences == 0) / 2)


def performance_profile(scores: Scores, thresholds: np.ndarray) -> np.ndarray:
    """The share of runs that score more than each threshold, (thresholds,); each task counts the same."""
    shares = [(values[:, None] > thresholds).mean(axis=0) for values in scores.values()]
    return np.mean(shares, axis=0)


def interval(statistic: Callable, *samples: Scores) -> np.ndarray:
    """The 95 % interval (2, ...) of `statistic(*samples)`, from a stratified bootstrap."""
    rng = np.random.default_rng(0)
    values = [statistic(*(_resample(scores, rng) for scores in samples)) for _ in range(RESAMPLES)]
    return np.percentile(values, [2.5, 97.5], axis=0)


def _resample(scores: Scores, rng: np.random.Generator) -> Scores:
    return {task: rng.choice(values, len(values)) for task, values in scores.items()}


def count(scores: Scores) -> str:
    """3 runs on 2 tasks."""
    runs = sum(map(len, scores.values()))
    return f"{runs} run{'s' * (runs > 1)} on {len(scores)} task{'s' * (len(scores) > 1)}"
