"""Exports trained policies to zoo/<script>-<environment>[-pixels].pt, scores
them, and writes the table docs/zoo.md.

    python benchmark/zoo.py runs/sac_drq/CarRacing-v3/*
    python benchmark/zoo.py                                # only the table

Of several runs of one script on one environment, from the state or with --obs pixels, that with the median
last evaluation is chosen, and its last policy exported: weights and what rebuilds agent and environment, as
plain data, for evaluate.py. Its score over unseen episodes goes beside it, as .json.
"""

import json
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import tyro
from cells import command, read_run

from cleanrl_cc.common.arguments import check_args
from cleanrl_cc.common.checkpoints import load_checkpoint, save_checkpoint
from cleanrl_cc.common.errors import InputError, describe
from cleanrl_cc.common.files import write_text, writing
from cleanrl_cc.common.ranges import Size
from cleanrl_cc.evaluate import Options as EvaluateOptions
from cleanrl_cc.evaluate import evaluate

ROOT = Path(__file__).resolve().parents[1]
MAX_BYTES = 8e6  # of a policy in fp32; a larger one is stored in fp16
HEAD = """# Trained policies

Written by `python benchmark/zoo.py`. Each file holds the weights of one policy, in fp32 (in fp16 where that
exceeds 8 MB), and what rebuilds it; loading it runs no code. The score is that of the deterministic policy
over episodes that its training never played. A policy of as many steps as its run on the page
[Benchmarks](benchmarks.md) is the last one, of several seeds that with the median evaluation; one of fewer
steps was the best by its run's own evaluations.

```bash
python cleanrl_cc/evaluate.py {example} --episodes 5 --save-video
```

Hours are those of training up to this policy, on the machine that the same page names. The command uses
today's presets.

| policy | film | episodes | mean return | std | median | worst | steps | hours | command |
|---|---|---|---|---|---|---|---|---|---|
"""


@dataclass
class Options:
    checkpoints: tyro.conf.Positional[tuple[Path, ...]] = ()
    """run folders (their last.pt) or checkpoint files"""
    episodes: Size = 100
    """unseen episodes that score each policy"""
    zoo: Path = ROOT / "zoo"
    """where the policies go"""
    table: Path = ROOT / "docs" / "zoo.md"
    """where the table goes"""
    results: Path = ROOT / "benchmark" / "results"
    """folders as collect.py makes them, which know how long a training took"""
    trust: bool = False
    """import the modules that checkpoints name for environments and wrappers: they may run any code"""


def training_score(checkpoint: dict) -> float:
    """The evaluation that best.pt or last.pt was saved with."""
    return (
        checkpoint["evaluation"]["return_mean"] if "evaluation" in checkpoint else checkpoint["evaluated"][1]
    )


def policy(checkpoint: dict) -> dict:
    """What evaluate.py needs of a checkpoint. A target network, which does not act,
    is stored as its online twin: once."""
    weights = checkpoint["agent"]
    online = {name: name.replace("q_target.", "q_network.").replace("_target.", ".") for name in weights}
    if sum(weights[name].nbytes for name in set(online.values())) > MAX_BYTES:
        weights = {
            name: weight.half() if weight.is_floating_point() else weight for name, weight in weights.items()
        }
    args = checkpoint["args"] | {
        "runs_dir": "runs",
        "run_name": None,
        "resume": None,
        "device": "cpu",
    }
    kept = {name: checkpoint[name] for name in ("algorithm", "recipe", "global_step")}
    return kept | {"args": args, "agent": {name: weights[online[name]] for name in weights}}


def cell(checkpoint: dict) -> str:
    """What there is one policy of."""
    recipe = checkpoint["recipe"]
    pixels = "-pixels" if recipe["obs"] == "pixels" else ""
    return f"{checkpoint['algorithm']}-{re.sub('[/:]', '-', recipe['env_id'])}{pixels}"


def export(checkpoint: dict, options: Options):
    file = options.zoo / f"{cell(checkpoint)}.pt"
    with writing(options.zoo):
        options.zoo.mkdir(parents=True, exist_ok=True)
    candidate = options.zoo / f"unscored-{file.name}"  # replaces an earlier policy once it is scored
    scored = EvaluateOptions(str(candidate), episodes=options.episodes, device="cpu", trust=options.trust)
    save_checkpoint(candidate, policy(checkpoint))
    try:
        result = evaluate(scored)
        with writing(file):
            candidate.replace(file)
    finally:
        candidate.unlink(missing_ok=True)
    text = json.dumps(result | {"checkpoint": f"zoo/{file.name}"}, indent=1) + "\n"
    write_text(file.with_suffix(".json"), text)
    print(f"{file}: {result['return_mean']:.1f} over {options.episodes} episodes", flush=True)


def hours(score: dict, typed: str, results: Path) -> str:
    """Of the training that `typed` began, up to the policy of `score`; a dash where it was not collected."""
    runs = f"{score['algorithm']}*/{re.sub('[/:]', '-', score['env_id'])}/seed-*/args.json"
    for path in sorted(results.glob(runs)):
        run = read_run(path.parent)
        steps = run["evaluations"]["global_step"]
        if command(run) == typed and score["global_step"] in steps:
            return f"{run['evaluations']['seconds'][steps == score['global_step']][0] / 3600:.1f}"
    return "-"


def film(score: dict) -> str:
    """A link to the GIF of a policy, if there is one."""
    name = re.sub("^dm_control/|^cleanrl_cc/|-v0$", "", score["env_id"])
    path = Path("assets", f"{score['algorithm']}_{name}.gif")
    return f"[film]({path})" if (ROOT / "docs" / path).exists() else ""


def write_table(options: Options):
    files = sorted(options.zoo.glob("*.json"))
    if not files:
        raise InputError(f"There is no score in --zoo {options.zoo}.")
    lines = [row(file, options.results) for file in files]
    write_text(options.table, HEAD.format(example=f"zoo/{files[0].stem}.pt") + "".join(lines))


def row(file: Path, results: Path) -> str:
    """The line of one policy. Raises InputError for a file that is no score of one."""
    try:
        score = json.loads(file.read_text())
        typed = command(load_checkpoint(file.with_suffix(".pt")))
        cells = [
            f"`{score['checkpoint']}`",
            film(score),
            str(len(score["episodes"])),
            *(f"{score[f'return_{name}']:,.1f}" for name in ("mean", "std", "median", "min")),
            f"{score['global_step']:,}",
            hours(score, typed, results),
            f"`{typed}`",
        ]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(f"{file} is no score of a policy ({describe(error)}): move it away.") from error
    return f"| {' | '.join(cells)} |\n"


def main():
    options = tyro.cli(Options, description=__doc__)
    check_args(options)
    seeds = defaultdict(list)
    for path in options.checkpoints:
        checkpoint = load_checkpoint(path / "last.pt" if path.is_dir() else path)
        seeds[cell(checkpoint)].append(checkpoint)
    for checkpoints in seeds.values():
        checkpoints.sort(key=training_score)
        export(checkpoints[len(checkpoints) // 2], options)  # of two the better
    write_table(options)


if __name__ == "__main__":
    main()
