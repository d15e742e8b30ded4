"""Policies on the Hugging Face Hub: what is uploaded, and how `hf://user/name` is fetched.

A repository holds `best.pt` (weights and recipe, which is only data), `config.yaml` (the arguments, for
`--config`), `evaluation.json`, `evaluations.csv` with `curve.png`, `replay.mp4`, and `README.md`, a card
whose head gives the score in the Hub's own format. evaluate.py takes such a folder as it takes a run's.
Nothing here knows an algorithm."""

import json
import re
import shutil
from pathlib import Path

import numpy as np

from cleanrl_cc.common.checkpoints import save_checkpoint
from cleanrl_cc.common.config import NOT_IN_A_FILE, config_text
from cleanrl_cc.common.errors import InputError
from cleanrl_cc.common.tables import read_numbers

PREFIX = "hf://"
NAME = r"[\w.-]+/[\w.-]+"
TAGS = ["reinforcement-learning", "deep-reinforcement-learning", "continuous-control"]
CARD = """# {algorithm} on {env_id}

A policy trained by `{algorithm}.py` of cleanrl_cc for {global_step:,} agent steps.

mean return | deviation | median | worst | best | episodes
---|---|---|---|---|---
{return_mean:.2f} | {return_std:.2f} | {return_median:.2f} | {return_min:.2f} | {return_max:.2f} | {number}

The policy acts deterministically. The episodes have the seeds {first_seed} to {last_seed}, which its training
never played; `evaluation.json` has each of them.

## Use it

```python
from cleanrl_cc import load_policy

policy = load_policy("hf://{repo}"{trust})
env = policy.make_env(render_mode="human")
obs, _ = env.reset(seed={first_seed})
ended = False
while not ended:
    obs, reward, terminated, truncated, _ = env.step(policy(obs))
    ended = terminated or truncated
```

```bash
python cleanrl_cc/evaluate.py hf://{repo} --episodes {number}{trust_flag}
```

## Train it again

`config.yaml` holds every argument:

```bash
python cleanrl_cc/{algorithm}.py --config config.yaml
```
"""
CURVE = """
## How it learned

![Mean return of the evaluations during training](curve.png)
"""


def import_hub():
    """The library that talks to the Hub. Raises InputError where it is missing."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise InputError('The Hugging Face Hub needs huggingface_hub: pip install -e ".[hub]".') from error
    return huggingface_hub


def fetch(source: str) -> Path:
    """The checkpoint of `hf://user/name`, or `hf://user/name@revision`, in the Hub's cache on this machine.

    Raises:
        InputError: no such address, no access, or no network and nothing in the cache.
    """
    match = re.fullmatch(rf"{PREFIX}({NAME})(?:@([\w./-]+))?", source)
    if match is None:
        raise InputError(
            f"{source} is not a policy's address on the Hub: write hf://user/name or hf://user/name@revision."
        )
    hub = import_hub()
    repo, revision = match.groups()
    try:
        return Path(hub.hf_hub_download(repo, "best.pt", revision=revision))
    except Exception as error:  # of the network, the server, the token, the name: each has classes of its own
        raise InputError(f"{source} could not be fetched: {reason(error)}.") from error


def check(repo: str, folder: Path | None):
    """Raises InputError for what would fail after the episodes: no package, a wrong name, a used folder."""
    import_hub()
    if not re.fullmatch(NAME, repo, re.ASCII):
        raise InputError(f"--push-to-hub {repo} is not the name of a repository: write user/name.")
    if folder and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"--dry-run {folder} is there already: name a new folder.")


def write_folder(
    folder: Path, repo: str, checkpoint: dict, result: dict, film: Path | None, evaluations: Path
):
    """Makes `folder` and fills it with what a repository of the Hub holds.

    Args:
        folder: new, or empty.
        repo: "user/name", for the card.
        checkpoint: of which weights, recipe and arguments are kept, without paths and accounts.
        result: of `evaluate`: where the policy comes from, statistics of the return and every episode.
        film: a .mp4, None where the environment cannot be drawn.
        evaluations: the run's evaluations.csv; without one there is no curve.

    Raises:
        InputError: the folder cannot be written, or matplotlib is missing.
    """
    args = {name: value for name, value in checkpoint["args"].items() if name not in NOT_IN_A_FILE}
    kept = {name: checkpoint[name] for name in ("algorithm", "recipe", "global_step", "agent")}
    recipe = checkpoint["recipe"]
    has_module = any(":" in name for name in (recipe["env_id"], *recipe.get("wrappers", ())))
    text = card(repo, result, has_module)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_checkpoint(folder / "best.pt", kept | {"args": args | {"device": "cpu"}})
        (folder / "config.yaml").write_text(config_text(args))
        score = json.dumps(result | {"checkpoint": "best.pt"}, indent=1)
        (folder / "evaluation.json").write_text(score + "\n")
        if film:
            shutil.copyfile(film, folder / "replay.mp4")
        if evaluations.is_file():
            shutil.copyfile(evaluations, folder / "evaluations.csv")
            draw_curve(evaluations, folder / "curve.png", result)
            text += CURVE
        (folder / "README.md").write_text(text)
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error}): name another folder.") from error


def card(repo: str, result: dict, has_module: bool) -> str:
    """The head that the Hub reads (https://huggingface.co/docs/hub/model-cards), and what people read."""
    hub = import_hub()
    algorithm = result["algorithm"]
    env_id = result["env_id"]
    episodes = result["episodes"]
    score = hub.EvalResult(
        task_type="reinforcement-learning",
        task_name="reinforcement-learning",
        dataset_type=env_id,
        dataset_name=env_id,
        metric_type="mean_reward",  # the name and the form that the Hub's leaderboards read
        metric_name="mean_reward",
        metric_value=f"{result['return_mean']:.2f} +/- {result['return_std']:.2f}",
        verified=False,
    )
    head = hub.ModelCardData(
        library_name="cleanrl_cc",
        pipeline_tag="reinforcement-learning",
        tags=[*TAGS, env_id, algorithm, "cleanrl_cc"],
        model_name=algorithm,
        eval_results=[score],
    )
    body = CARD.format(
        **result,
        repo=repo,
        number=len(episodes),
        first_seed=episodes[0]["seed"],
        last_seed=episodes[-1]["seed"],
        trust=", trust=True" if has_module else "",
        trust_flag=" --trust" if has_module else "",
    )
    return f"---\n{head.to_yaml()}\n---\n\n{body}"


def read_curve(evaluations: Path) -> np.ndarray:
    """Step, mean return and deviation of each evaluation during training, (E, 3). Raises InputError."""
    columns = ("global_step", "return_mean", "return_std")
    rows = [[float(row[name]) for name in columns] for row in read_numbers(evaluations, columns)]
    return np.array(rows).reshape(-1, 3)


def import_figure():
    """Matplotlib's figure. Raises InputError where it is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError('The curve is drawn with matplotlib: pip install -e ".[hub]".') from error
    return Figure


def draw_curve(evaluations: Path, path: Path, result: dict):
    """The mean return of each evaluation during training, and one standard deviation around it."""
    steps, means, deviations = read_curve(evaluations).T
    figure = import_figure()(figsize=(6, 3.5), layout="constrained")
    axis = figure.subplots()
    axis.fill_between(steps, means - deviations, means + deviations, alpha=0.2, linewidth=0)
    axis.plot(steps, means, marker=".")
    axis.set(
        title=f"{result['algorithm']} on {result['env_id']}",
        xlabel="agent steps",
        ylabel="return of an evaluation",
    )
    figure.savefig(path, dpi=120)


def upload(folder: Path, repo: str) -> str:
    """Sends `folder` to the repository "user/name", which is made if it is not there. Returns its address.

    Raises:
        InputError: not logged in, no right to write there, or no network.
    """
    hub = import_hub()
    try:
        address = hub.HfApi().create_repo(repo, exist_ok=True)
        hub.HfApi().upload_folder(
            repo_id=repo, folder_path=folder, commit_message="Upload a policy with its evaluation"
        )
    except Exception as error:  # of the network, the server, the token, the name: each has classes of its own
        raise InputError(
            f"{repo} could not be uploaded: {reason(error)}. Log in with `hf auth login`."
        ) from error
    return str(address)


def reason(error: Exception) -> str:
    """The first two lines of a message, the error's class and its object, as part of a sentence."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(line for line in lines[:2] if not line.startswith("For more information")).rstrip(".:")
