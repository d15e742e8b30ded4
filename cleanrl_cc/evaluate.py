"""Scores, films and analyses the policy in any checkpoint of this project.

    python cleanrl_cc/evaluate.py runs/my-run                       # its best.pt, 10 episodes
    python cleanrl_cc/evaluate.py runs/my-run/last.pt --episodes 50
    python cleanrl_cc/evaluate.py runs/my-run --save-video --analyze-value

The algorithm, the environment and the networks come from the checkpoint. The policy acts
deterministically, and always on the environment as it is registered: what made training easier
(`--patience`) is left out. Training evaluates on the seeds from 20,000 on, this program from 10,000 on:
the policy was not selected on the episodes that score it.
"""

import importlib
import json
import os
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import tyro

from cleanrl_cc.common.checkpoints import load_checkpoint
from cleanrl_cc.common.envs import make_env
from cleanrl_cc.common.errors import InputError, require
from cleanrl_cc.common.evaluation import Film, play_episodes, side_by_side, summarize
from cleanrl_cc.common.machine import start_torch


@dataclass
class Options:
    checkpoint: tyro.conf.Positional[str]
    """a run folder (its best.pt, else its last.pt) or a checkpoint file"""
    episodes: int = 10
    """episodes to play"""
    seed: int = 10_000
    """seed of the first episode; the others count up from it"""
    save_video: bool = False
    """film every episode into a folder `videos` beside the checkpoint"""
    analyze_value: bool = False
    """draw the predicted value against the realised discounted return
    into `value.png` beside the checkpoint"""
    render: bool = False
    """show the episodes in a window"""
    json: bool = False
    """print the result as one JSON object"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:1"""


def evaluate(options: Options) -> dict:
    """Plays the episodes.

    Returns:
        Where the policy comes from, statistics of the return, and every episode's measures.

    Raises:
        InputError: no such checkpoint, one that does not fit its
            script, or a window where there is no screen.
    """
    require(options.episodes >= 1, "episodes", options.episodes, "at least 1")
    require(options.seed >= 0, "seed", options.seed, "at least 0")
    require(
        options.seed + options.episodes <= 2**32,
        "seed",
        options.seed,
        "below 2 ** 32, which is all that NumPy takes",
    )
    if options.render and options.save_video:
        raise InputError("--render shows a window and --save-video films without one: choose one of them.")
    if options.render and sys.platform == "linux" and not os.environ.keys() & {"DISPLAY", "WAYLAND_DISPLAY"}:
        raise InputError(
            "--render needs a screen and finds none (DISPLAY is not set): --save-video films without one."
        )
    path = Path(options.checkpoint)
    if (path / "best.pt").is_file():
        path /= "best.pt"
    checkpoint = load_checkpoint(path)
    folder = path if path.is_dir() else path.parent
    mode = "human" if options.render else "rgb_array" if options.save_video else None
    make = partial(make_env, **checkpoint["recipe"], render_mode=mode)
    envs = [make()]
    agent, gamma = load_agent(checkpoint, envs[0], options.device)
    number = side_by_side(
        envs[0], checkpoint["recipe"]["env_id"], options.episodes, all_filmed=options.save_video
    )
    envs += [make() for _ in range(number - 1)]

    seeds = range(options.seed, options.seed + options.episodes)
    films, traces = {}, {} if options.analyze_value else None
    if options.save_video:
        name = f"evaluation-{path.stem}-seed"
        action_repeat = checkpoint["recipe"]["action_repeat"]
        films = {
            seed: Film(folder / "videos" / f"{name}-{seed}.mp4", envs[0], action_repeat) for seed in seeds
        }
    episodes = play_episodes(envs, agent, seeds, films, traces)
    for film in films.values():
        print(film.path, file=sys.stderr)
    for env in envs:
        env.close()
    analysis = (
        analyze_value([traces[seed] for seed in seeds], gamma, folder / "value.png")
        if options.analyze_value
        else {}
    )
    source = {
        "checkpoint": str(path),
        "algorithm": checkpoint["algorithm"],
        "env_id": checkpoint["recipe"]["env_id"],
        "global_step": checkpoint["global_step"],
    }
    return source | summarize(episodes) | analysis | {"episodes": episodes}


def load_agent(checkpoint: dict, env, device: str):
    """The trained `Agent` of the checkpoint's script, and its discount."""
    try:
        script = importlib.import_module(f"cleanrl_cc.{checkpoint['algorithm']}")
        args = script.Args(**checkpoint["args"])
        trained_on, args.device, args.compile = args.device, device, False
        pixels = env.observation_space.dtype == np.uint8
        torch_device = start_torch(args, pixels)
        if trained_on.split(":")[0] != torch_device.type:
            args.precision = "auto"  # what is fast there may be slow here
            start_torch(args, pixels)
        agent = script.Agent(args, env.observation_space, env.action_space, torch_device)
        agent.load_state_dict(checkpoint["agent"])
    except (ImportError, TypeError, RuntimeError, AttributeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"The checkpoint does not fit this version of {checkpoint['algorithm']}.py: {reason}."
        ) from error
    return agent, args.gamma


def analyze_value(traces: list[np.ndarray], gamma: float, path: Path) -> dict:
    """Compares predicted values with what the episodes then brought, and draws both.

    Args:
        traces: per episode (T + 1, 2): value and reward of each step; the last row has the
            value of the final observation, 0 if the episode terminated there, so that a
            time limit is bootstrapped as in training.

    Returns:
        `value_bias`, the mean of predicted minus realised, and `value_correlation`.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError('--analyze-value draws with matplotlib: pip install -e ".[plot]"') from error

    predicted, realised = [], []
    for trace in traces:
        values, rewards = trace.T
        returns = np.empty_like(values)
        returns[-1] = values[-1]
        for t in reversed(range(len(values) - 1)):  # G_t = r_t + γ G_{t+1}
            returns[t] = rewards[t] + gamma * returns[t + 1]
        predicted.append(values[:-1])
        realised.append(returns[:-1])
    everything = np.concatenate(predicted), np.concatenate(realised)
    bias = float(np.mean(everything[0] - everything[1]))
    correlation = float(np.corrcoef(everything)[0, 1])

    shown = min(3, len(traces))
    figure = Figure(figsize=(4 * (shown + 1), 3.2), layout="constrained")
    axes = figure.subplots(1, shown + 1)
    for index, axis in enumerate(axes[:shown]):
        axis.plot(predicted[index], label="predicted value")
        axis.plot(realised[index], label="realised discounted return")
        axis.set(title=f"episode {index + 1}", xlabel="agent step")
    axes[0].legend(fontsize="small")
    axes[-1].scatter(everything[1], everything[0], s=2, alpha=0.3)
    axes[-1].axline((0, 0), slope=1, color="gray", linewidth=1)
    axes[-1].set(
        title=f"correlation {correlation:.2f}, bias {bias:.2g}", xlabel="realised", ylabel="predicted"
    )
    figure.savefig(path, dpi=120)
    print(path, file=sys.stderr)
    return {"value_bias": bias, "value_correlation": correlation}


def main(argv: list[str] | None = None):
    options = tyro.cli(Options, description=__doc__, args=argv)
    result = evaluate(options)
    if options.json:
        print(json.dumps(result))
        return
    for key in ("checkpoint", "algorithm", "env_id", "global_step"):
        print(f"{key:>18}  {result[key]}")
    for episode in result["episodes"]:
        others = "".join(
            f"  {key} {value:g}" for key, value in episode.items() if key not in ("seed", "r", "l")
        )
        print(
            f"{'seed ' + str(episode['seed']):>18}  return {episode['r']:.2f}  length {episode['l']}{others}"
        )
    for key in [
        key
        for key in result
        if key.endswith(("_mean", "_std", "_median", "_min", "_max", "_bias", "_correlation"))
    ]:
        print(f"{key:>18}  {result[key]:.4g}" if "return" not in key else f"{key:>18}  {result[key]:.2f}")


if __name__ == "__main__":
    main()
