"""Statistics over tasks and seeds count what their names say."""

import numpy as np
from helpers import load_benchmark


def test_the_interquartile_mean_leaves_out_the_best_and_the_worst_quarter():
    scores = load_benchmark("scores")
    assert (
        scores.interquartile_mean({"a": np.array([-9.0, 1, 2, 100]), "b": np.array([-50.0, 3, 4, 5])}) == 2.5
    )
    assert scores.interquartile_mean({"a": np.array([1.0, 2, 6])}) == 3  # a quarter of three is no run
    low, high = scores.interval(scores.interquartile_mean, {"a": np.arange(8.0), "b": np.ones(1)})
    assert 0 < low < 3 < high < 6


def test_the_probability_of_improvement_counts_ties_half_and_tasks_equally():
    scores = load_benchmark("scores")
    ours = {"a": np.array([1.0, 3]), "b": np.array([5.0]), "only ours": np.array([9.0])}
    theirs = {"a": np.array([2.0, 3, 4, 5]), "b": np.array([4.0])}
    assert scores.probability_of_improvement(ours, theirs) == ((1 + 0.5) / 8 + 1) / 2
    assert scores.probability_of_improvement(theirs, ours) == 1 - ((1 + 0.5) / 8 + 1) / 2


def test_a_profile_is_the_share_of_runs_above_each_score():
    scores = load_benchmark("scores")
    runs = {"a": np.array([0.2, 0.6]), "b": np.array([1.0])}
    profile = scores.performance_profile(runs, np.array([0, 0.5, 0.6, 1.1]))
    assert profile.tolist() == [1, 0.75, 0.5, 0]
    low, high = scores.interval(lambda sample: scores.performance_profile(sample, np.array([0.5])), runs)
    assert (low[0], high[0]) == (0.5, 1)
    assert scores.count(runs) == "3 runs on 2 tasks"
    assert scores.normalize(np.array([10.0, 40]), random=10, reference=70).tolist() == [0, 0.5]


def test_an_interval_holds_19_of_20_resamples():
    values = np.random.default_rng(1).normal(size=200)
    low, high = load_benchmark("scores").interval(lambda sample: sample["a"].mean(), {"a": values})
    deviations = (high - low) / 2 / (values.std() / np.sqrt(200))
    assert abs(deviations - 1.96) < 0.12
