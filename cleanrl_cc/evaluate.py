"""Scores, films, analyses and exports the policy in any checkpoint of this project.

    python cleanrl_cc/evaluate.py runs/my-run                       # its best.pt, 10 episodes
    python cleanrl_cc/evaluate.py runs/my-run/last.pt --episodes 50
    python cleanrl_cc/evaluate.py runs/my-run --save-video --analyze-value
    python cleanrl_cc/evaluate.py runs/my-run --env-id cleanrl_cc/CorridorMoving-Ball-v0
    python cleanrl_cc/evaluate.py runs/my-run --export-onnx policy.onnx
    python cleanrl_cc/evaluate.py runs/my-run --push-to-hub user/name
    python cleanrl_cc/evaluate.py hf://user/name
    python cleanrl_cc/evaluate.py runs/my-run --script my_sac.py    # trained by a copy of a script

The algorithm, the environment and the networks come from the checkpoint. The policy acts deterministically,
and always on the environment as it is registered, without `--training-wrappers`; with --env-id in another one
than it was trained in, whose spaces must be the same. Training evaluates on the seeds from 20,000 on, this
program from 10,000 on: the policy was not selected on the episodes that score it.
"""

import json
import os
import shutil
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the imports below without a traceback

import gymnasium as gym
import numpy as np
import torch
import tyro
from gymnasium.spaces import Discrete

from cleanrl_cc.common import announcements, export, hub
from cleanrl_cc.common.arguments import check_args
from cleanrl_cc.common.checkpoints import (
    load_checkpoint,
    refuse_module,
    refuse_wrappers,
    rng_state,
    set_rng_state,
)
from cleanrl_cc.common.envs import RECIPE, make_env
from cleanrl_cc.common.episodes import Episodes
from cleanrl_cc.common.errors import InputError, Stopped, gist, require
from cleanrl_cc.common.evaluation import (
    EVALUATION_SEED,
    Film,
    analyze_value,
    play_episodes,
    require_matplotlib,
    side_by_side,
    summarize,
)
from cleanrl_cc.common.machine import find_device, start_torch
from cleanrl_cc.common.ranges import Seed, Size
from cleanrl_cc.common.scripts import find_script, load_script


@dataclass
class Options:
    checkpoint: tyro.conf.Positional[str]
    """a run folder (its best.pt, else its last.pt), a checkpoint file, or hf://user/name"""
    episodes: Size = 10
    """episodes to play"""
    seed: Seed = 10_000
    """seed of the first episode; the others count up from it"""
    env_id: str | None = None
    """another environment to play in, whose spaces must be the same; None: the one it was trained in"""
    save_video: bool = False
    """film every episode into a folder `videos` beside the checkpoint"""
    analyze_value: bool = False
    """draw predicted values against realised discounted returns into `value.png` beside the checkpoint"""
    out: Path | None = None
    """another folder for `videos` and `value.png`, for a checkpoint that plays in several environments"""
    render: bool = False
    """show the episodes in a window"""
    json: bool = False
    """print the result as one JSON object"""
    device: str = "auto"
    """torch device: auto, cpu, cuda or cuda:1"""
    script: Path | None = None
    """script that trained the policy, a copy of one of ours; None: the one that the checkpoint names"""
    trust: bool = False
    """import the modules that a checkpoint names for its environment and wrappers: they may run any code"""
    export_onnx: Path | None = None
    """write the policy to this ONNX file, and play nothing"""
    export_torch: Path | None = None
    """write the policy to this file of torch.export, and play nothing"""
    push_to_hub: str | None = None
    """upload policy, score, film and curve to this repository of the Hugging Face Hub, user/name"""
    dry_run: Path | None = None
    """with --push-to-hub: write what would be uploaded to this new folder, and upload nothing"""


# --- the policy ---


class Policy:
    """A trained policy that acts: `action = policy(obs)`.

    Attributes:
        source: its `algorithm`, `env_id` and the `global_step` that its training had reached.
        recipe: the arguments of `make_env` that rebuild its environment.
        gamma: its discount per agent step.
        observation_space, action_space: of `make_env()`: Box, and Box of [-1, 1] or Discrete.
        agent: the script's `Agent`.
    """

    def __init__(
        self,
        checkpoint: dict,
        device: str = "auto",
        precision: str | None = None,
        script: str | Path | None = None,
    ):
        """Rebuilds what a checkpoint holds.

        Args:
            precision: "fp32" or "bf16"; None: the one of its training, where this device has it.
            script: the file that trained it; None: the one of its name beside this file.

        Raises:
            InputError: it does not fit its script, or its environment cannot be made.
        """
        algorithm = checkpoint["algorithm"]
        module = load_script(Path(script)) if script else find_script(algorithm)
        self.recipe = checkpoint["recipe"]
        self.source = {"algorithm": algorithm, "env_id": self.recipe["env_id"]}
        self.source |= {"global_step": checkpoint["global_step"]}
        if unknown := sorted(self.recipe.keys() - set(RECIPE)):
            message = f"The checkpoint does not fit this version of {algorithm}.py"
            raise InputError(f"{message}: its environment has {', '.join(unknown)}.")
        try:
            env = self.make_env()
            self.observation_space, self.action_space = env.observation_space, env.action_space
            env.close()
            pixels = self.observation_space.dtype == np.uint8
            args = module.Args(**checkpoint["args"])
            trained_on = args.device.split(":")[0]
            args.device = str(find_device(device))
            args.compile = False
            args.num_threads = None
            if precision is not None:
                args.precision = precision
            elif args.device.split(":")[0] != trained_on:
                args.precision = "auto"  # what is fast there may be slow here
            torch_device = start_torch(args, pixels)
            self.agent = module.Agent(args, self.observation_space, self.action_space, torch_device)
            self.agent.load_state_dict(checkpoint["agent"])
            self.agent.eval()  # a layer of a copied script, as dropout, may differ while it learns
        except (TypeError, ValueError, RuntimeError, AttributeError) as error:
            message = f"The checkpoint does not fit this version of {algorithm}.py: {gist(error)}."
            raise InputError(message) from error
        self.gamma = args.gamma

    def move(self, env_id: str):
        """From now on `make_env` makes another environment, and `source` says where the policy was trained.

        Raises:
            InputError: it cannot be made, or its spaces have other shapes or types.
        """
        trained_env_id = self.recipe["env_id"]
        self.recipe = self.recipe | {"env_id": env_id}
        env = self.make_env()
        env.close()
        ours = describe_spaces(self.observation_space, self.action_space)
        theirs = describe_spaces(env.observation_space, env.action_space)
        if ours != theirs:
            raise InputError(
                f"{env_id} has {theirs}, and {trained_env_id}, where the policy was trained, has {ours}: "
                "a policy can only play where both are the same."
            )
        self.source |= {"env_id": env_id, "trained_env_id": trained_env_id}

    def make_env(self, render_mode: str | None = None) -> Episodes:
        """An environment as the policy knows it; "human" shows it in a window, "rgb_array" draws frames."""
        return make_env(**self.recipe, render_mode=render_mode)

    def __call__(self, obs) -> np.ndarray:
        """The deterministic action of an observation, or those of a batch of them.

        Args:
            obs: (*obs_shape) or (B, *obs_shape), as `make_env()` emits them: float32 in the environment's
                units, or stacked frames in uint8. Normalisation and scaling are inside.

        Returns:
            (A,) or (B, A) in [-1, 1], or an integer or (B,) integers where actions are discrete.

        Raises:
            ValueError: another shape, or frames that are not uint8.
        """
        batch, is_single = self._batch(obs)
        actions = self.agent.act(batch, deterministic=True)
        if not isinstance(self.action_space, Discrete):
            actions = actions.clip(-1, 1)  # the mean of PPO's normal distribution may be outside
        return actions[0] if is_single else actions

    def value(self, obs) -> np.ndarray:
        """The discounted return that the agent predicts, in the environment's units: one number, or (B,)."""
        batch, is_single = self._batch(obs)
        values = self.agent.value(batch)
        return values[0] if is_single else values

    def _batch(self, obs) -> tuple[np.ndarray, bool]:
        """(B, *obs_shape), and whether it was a single observation."""
        obs = np.asarray(obs)
        shape = self.observation_space.shape or ()
        dtype = self.observation_space.dtype
        if obs.shape[-len(shape) :] != shape or obs.ndim > len(shape) + 1:
            batch = ", ".join(map(str, ("B", *shape)))
            raise ValueError(f"obs must have the shape {shape}, or ({batch}) for a batch, not {obs.shape}.")
        if dtype == np.uint8 and obs.dtype != np.uint8:
            raise ValueError(f"obs must be frames of bytes, uint8 from 0 to 255, not {obs.dtype}.")
        return obs.reshape(-1, *shape).astype(dtype, copy=False), obs.ndim == len(shape)


def describe_spaces(observations: gym.Space, actions: gym.Space) -> str:
    """What a network must know of them."""
    is_discrete = isinstance(actions, Discrete)
    kind = f"{actions.n} discrete actions" if is_discrete else f"actions {actions.dtype} {actions.shape}"
    return f"observations {observations.dtype} {observations.shape} and {kind}"


def load_policy(
    source: str | Path, device: str = "auto", trust: bool = False, script: str | Path | None = None
) -> Policy:
    """The policy of a checkpoint, ready to act. Random generators and torch's settings stay as they are.

    Args:
        source: a run folder (its best.pt, else its last.pt), a checkpoint file, or hf://user/name.
        device: auto, cpu, cuda or cuda:1.
        trust: import the modules that the checkpoint may name for its environment and wrappers, from the
            working directory or from what is installed. Without it no code runs that the checkpoint chose.
        script: the file that trained it, a copy of one of ours; None: the one of its name beside this file.

    Raises:
        InputError: no checkpoint, one that does not fit its script, or one that names a module and is not
            trusted.
    """
    _, checkpoint = read_checkpoint(source, trust)
    generators = rng_state()
    threads = torch.get_num_threads()
    products = torch.get_float32_matmul_precision()
    deterministic = torch.backends.cudnn.deterministic
    try:
        return Policy(checkpoint, device, script=script)
    finally:  # a training run owns its process, a policy does not
        set_rng_state(generators)
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.deterministic = deterministic


def read_checkpoint(source: str | Path, trust: bool) -> tuple[Path, dict]:
    """Where a checkpoint is, and what it holds. Raises InputError as `load_policy`."""
    path = hub.fetch(str(source)) if str(source).startswith(hub.PREFIX) else Path(source)
    if os.path.isdir(path):
        path /= "best.pt" if os.path.isfile(path / "best.pt") else "last.pt"
    checkpoint = load_checkpoint(path)
    if not trust:
        remedy = "--trust (in Python trust=True)"
        refuse_module(checkpoint["recipe"]["env_id"], source, remedy)
        refuse_wrappers(checkpoint["recipe"].get("wrappers", ()), source, remedy)
    return path, checkpoint


# --- playing ---


def evaluate(options: Options) -> dict:
    """Plays the episodes.

    Returns:
        Where the policy comes from, statistics of the return, and every episode's measures.

    Raises:
        InputError: no such checkpoint, one that does not fit its script, or no screen for a window.
    """
    check(options)
    path, checkpoint = read_checkpoint(options.checkpoint, options.trust)
    policy = Policy(checkpoint, options.device, script=options.script)
    if options.env_id:
        policy.move(options.env_id)
    return play(policy, path, options)


def check(options: Options):
    """Raises InputError for what cannot be done, before anything is."""
    check_args(options)
    most = 2**32 - options.episodes
    require(options.seed <= most, "seed", options.seed, f"at most {most}, since each episode takes the next")
    if options.render and (options.save_video or options.push_to_hub):
        filming = "--save-video" if options.save_video else "--push-to-hub"
        raise InputError(f"--render shows a window and {filming} films without one: choose one of them.")
    if options.render and sys.platform == "linux" and not os.environ.keys() & {"DISPLAY", "WAYLAND_DISPLAY"}:
        raise InputError("--render needs a screen and DISPLAY names none: --save-video films without one.")
    if options.out and not (options.save_video or options.analyze_value):
        raise InputError("--out goes with --save-video or --analyze-value: nothing else is written there.")
    if options.out and options.out.exists() and not options.out.is_dir():
        raise InputError(f"--out {options.out} is not a folder.")
    if options.out:
        try:
            options.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"--out {options.out} cannot be made ({error.strerror}): name another folder."
            ) from error
    if options.dry_run and not options.push_to_hub:
        raise InputError("--dry-run goes with --push-to-hub user/name: the card names the repository.")
    if options.env_id and (options.export_onnx or options.export_torch or options.push_to_hub):
        raise InputError("--env-id plays a policy elsewhere: leave it out to export or share one.")
    if options.analyze_value:
        require_matplotlib()
    if options.export_onnx:
        export.require_onnx()
    exports = [file for file in (options.export_onnx, options.export_torch) if file]
    for file in exports:
        if not file.absolute().parent.is_dir():
            raise InputError(f"{file} cannot be written: there is no folder {file.parent}.")
        if file.exists() and not file.is_file():
            raise InputError(f"{file} cannot be written: it is not a file.")
        if is_checkpoint(file):
            raise InputError(f"{file} is a checkpoint, which an export would replace: name another file.")
    if len({file.resolve() for file in exports}) < len(exports):
        raise InputError(f"{exports[0]} cannot hold two exports: name two files.")
    for name in ("save_video", "analyze_value", "render", "json", "push_to_hub"):
        if exports and getattr(options, name):
            flag = name.replace("_", "-")
            raise InputError(f"--{flag} needs episodes, and an export plays none: use a command for each.")
    if options.push_to_hub is not None:
        hub.check(options.push_to_hub, options.dry_run)


def is_checkpoint(file: Path) -> bool:
    try:
        load_checkpoint(file)
    except InputError:
        return False
    return True


def play(policy: Policy, path: Path, options: Options, film: Path | None = None) -> dict:
    """Plays, films and analyses the policy of the checkpoint `path` as `options` say.

    Args:
        film: where the film of the first episode goes.
    """
    place = options.out or output_folder(options.checkpoint, path)
    folder = place.absolute()  # an environment may change the working directory
    filming = options.save_video or film is not None
    mode = "human" if options.render else "rgb_array" if filming else None
    envs = [policy.make_env(mode)]
    number = side_by_side(envs[0], options.episodes, all_filmed=options.save_video)
    envs += [policy.make_env(mode) for _ in range(number - 1)]

    seeds = range(options.seed, options.seed + options.episodes)
    paths = {}
    if options.save_video:
        name = f"evaluation-{path.stem}-seed"
        paths = {seed: folder / "videos" / f"{name}-{seed}.mp4" for seed in seeds}
        announcements.say(f"Filming into {place / 'videos'}")  # which may take minutes
    if film and not options.save_video:
        paths[seeds[0]] = film
    films = {seed: Film(place, envs[0], policy.recipe["action_repeat"]) for seed, place in paths.items()}
    traces = {} if options.analyze_value else None
    episodes = play_episodes(envs, policy.agent, seeds, films, traces)
    for env in envs:
        env.close()
    if film and options.save_video:
        shutil.copyfile(paths[seeds[0]], film)
    analysis = {}
    if options.analyze_value:
        analysis = analyze_value([traces[seed] for seed in seeds], policy.gamma, folder / "value.png")
    from_hub = options.checkpoint.startswith(hub.PREFIX)
    source = {"checkpoint": options.checkpoint if from_hub else str(path)} | policy.source
    return source | summarize(episodes) | analysis | {"episodes": episodes}


def output_folder(source: str, path: Path) -> Path:
    """Films and pictures go beside the checkpoint; of a policy on the Hub, into a folder of its name."""
    if source.startswith(hub.PREFIX):
        return Path(source.removeprefix(hub.PREFIX).partition("@")[0].replace("/", "-"))
    return path.parent


# --- sharing ---


def export_policy(options: Options):
    """Writes the files that --export-onnx and --export-torch name."""
    _, checkpoint = read_checkpoint(options.checkpoint, options.trust)
    policy = Policy(checkpoint, "cpu", "fp32", options.script)
    env = policy.make_env()
    metadata = export.describe(env, policy.recipe, policy.source)
    program = export.trace(policy.agent, env)
    env.close()
    for file, save in ((options.export_onnx, export.save_onnx), (options.export_torch, export.save_torch)):
        if file:
            save(file, program, metadata)
            announcements.show(f"{file}\n  obs     {metadata['obs']}\n  action  {metadata['action']}")


def push(options: Options, repo: str) -> dict:
    """Plays the episodes, and uploads policy and result to `repo`; with --dry-run only writes the folder."""
    path, checkpoint = read_checkpoint(options.checkpoint, options.trust)
    evaluations = path.parent / "evaluations.csv"
    if len(hub.read_curve(evaluations)):  # what cannot be read, or not be drawn, is told now
        hub.import_figure()
    selecting = range(EVALUATION_SEED, EVALUATION_SEED + checkpoint["args"].get("eval_episodes", 0))
    judging = range(options.seed, options.seed + options.episodes)
    if max(selecting.start, judging.start) < min(selecting.stop, judging.stop):
        raise InputError(
            f"--seed {options.seed} plays episodes by which the policy was chosen, from {EVALUATION_SEED:,} "
            "on: judge it on others, as without --seed."
        )
    policy = Policy(checkpoint, options.device, script=options.script)
    with tempfile.TemporaryDirectory() as temporary:
        film = Path(temporary) / "film.mp4" if draws(policy) else None
        result = play(policy, path, options, film)
        folder = options.dry_run or Path(temporary) / "repository"
        hub.write_folder(folder, repo, checkpoint, result, film, evaluations)
        announcements.say(str(options.dry_run or hub.upload(folder, repo)))
    return result


def draws(policy: Policy) -> bool:
    """Whether episodes can be filmed."""
    try:
        env = policy.make_env("rgb_array")
    except InputError as error:
        announcements.say(f"No film: {error}")
        return False
    env.reset(seed=0)
    has_frames = isinstance(env.render(), np.ndarray)
    env.close()
    return has_frames


# --- the command line ---


def stop(number: int, _frame):
    raise Stopped(128 + number)


def main(argv: list[str] | None = None):
    options = tyro.cli(Options, description=__doc__, args=argv)
    check(options)
    if options.export_onnx or options.export_torch:
        return export_policy(options)
    repo = options.push_to_hub
    result = push(options, repo) if repo else evaluate(options)
    if options.json:
        return announcements.show(json.dumps(result))
    lines = []
    for key in [
        key for key in ("checkpoint", "algorithm", "env_id", "trained_env_id", "global_step") if key in result
    ]:
        lines.append(f"{key:>18}  {result[key]}")
    for episode in result["episodes"]:
        others = [f"  {key} {value:g}" for key, value in episode.items() if key not in ("seed", "r", "l")]
        measures = f"return {episode['r']:.2f}  length {episode['l']}{''.join(others)}"
        lines.append(f"{'seed ' + str(episode['seed']):>18}  {measures}")
    statistics = ("_mean", "_std", "_median", "_min", "_max", "_bias", "_correlation")
    for key in [key for key in result if key.endswith(statistics)]:
        digits = ".2f" if "return" in key else ".4g"
        lines.append(f"{key:>18}  {result[key]:{digits}}")
    announcements.show("\n".join(lines))


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):  # an unfinished film is removed
        signal.signal(number, stop)
    main()
