"""What a run is told: the fields that all scripts have, their ranges,
presets, and what a resumed run may change."""

import argparse
import fnmatch
import math
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Literal, get_args, get_origin, get_type_hints

import tyro

from cleanrl_cc.common.checkpoints import load_checkpoint, refuse_module
from cleanrl_cc.common.config import read_config
from cleanrl_cc.common.errors import InputError, require


@dataclass
class RunArgs:
    """The fields that only say what is emitted and recorded; a script's `Args` adds its algorithm's."""

    env_id: str = "CarRacing-v3"
    """any Gymnasium id: Box2D, MuJoCo, dm_control/walker-walk-v0, or my_module:MyEnv-v0"""
    seed: int = 1
    """seeds Python, NumPy, torch and every training environment"""
    total_timesteps: int = 1_000_000
    """environment transitions the agent chooses an action for, summed over parallel environments"""
    num_envs: int = 1
    """parallel environments, spread over a process per core"""
    obs: Literal["auto", "pixels", "state"] = "auto"
    """what the agent sees; auto: pixels where the environment emits images, else state"""
    action_set: Literal["auto", "native", "five"] = "auto"
    """auto: two axes for CarRacing, continuous LunarLander; native: the environment's own;
    five: CarRacing's five discrete actions"""
    action_repeat: int = 1
    """environment steps per agent step; rewards are summed, only the last frame is rendered"""
    frame_stack: int = 4
    """newest frames in a pixel observation"""
    image_size: int = 84
    """height and width of pixel observations"""
    grayscale: bool = True
    """one channel per frame instead of three"""
    training_wrappers: tuple[str, ...] = ()
    """wrappers of training environments alone, from the inside: RoadRules, or module:Class,argument=1.5"""
    patience: int = 0
    """truncate a training episode after so many agent steps without a positive
    reward; 0: never. Evaluations ignore it"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:1"""
    num_threads: int | None = None
    """torch threads; None: torch decides"""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16 autocasts all layers but the last; auto: bf16 for pixels where it is faster, else fp32"""
    matmul: Literal["auto", "mkl", "onednn"] = "auto"
    """library of fp32 matrix products on a CPU; auto: the faster one, found by timing both at the start"""
    compile: bool = False
    """torch.compile the updates (needs a C++ compiler)"""
    config: str | None = None
    """a YAML file, an argument a line (`learning_rate: 1e-3`): beats the preset, what is typed beats it"""
    runs_dir: str = "runs"
    """where the run folder goes"""
    run_name: str | None = None
    """name of the run folder; None: environment, script, seed and time"""
    resume: str | None = None
    """a run folder or its last.pt: goes on with the arguments stored there; only --total-timesteps may grow.
    If its environment is my_module:MyEnv-v0, --env-id must say so again: it runs that module's code"""
    checkpoint_frequency: int = 25_000
    """global steps between checkpoints; 0: only at the end and when stopped"""
    eval_frequency: int = 10_000
    """global steps between evaluations; 0: only at the end"""
    eval_episodes: int = 10
    """deterministic episodes per evaluation"""
    capture_video: bool = False
    """film the first episode of each evaluation"""
    track: bool = False
    """log to Weights & Biases beside TensorBoard"""
    wandb_project: str = "cleanrl_cc"
    """Weights & Biases project"""
    wandb_entity: str | None = None
    """Weights & Biases team or user"""


# --- the command line ---


def parse_args(cls: type, presets: dict[str, dict], argv: list[str] | None = None):
    """The command line as an instance of the dataclass `cls`.

    Defaults come from the preset whose key matches --env-id (keys may hold * and ?), or from the checkpoint
    when resuming: then only --total-timesteps may differ, and only upwards. What --config says is read as if
    it were typed before all else.

    Raises:
        InputError: a checkpoint that cannot be resumed, a file that is no configuration, or an argument that
            may not change.
    """
    argv = sys.argv[1:] if argv is None else argv
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--env-id", "--env_id")
    early.add_argument("--training-wrappers", "--training_wrappers", nargs="*")
    early.add_argument("--resume")
    early.add_argument("--config")
    config = early.parse_known_args(argv)[0].config
    argv = [*(read_config(config, cls) if config else []), *argv]
    typed = early.parse_known_args(argv)[0]
    if typed.resume is None:
        default = preset_args(cls, presets, typed.env_id or cls.env_id)
        return replace(tyro.cli(cls, description=_summary(cls), default=default, args=argv), config=None)

    saved = resume_args(cls, typed.resume)
    if typed.env_id is None:  # the folder may have been downloaded
        refuse_module(saved.env_id, typed.resume, f"--env-id {saved.env_id}")
    for wrapper in saved.training_wrappers if typed.training_wrappers is None else ():
        remedy = f"--training-wrappers {' '.join(saved.training_wrappers)}"
        refuse_module(wrapper.split(",")[0], typed.resume, remedy)
    args = replace(tyro.cli(cls, description=_summary(cls), default=saved, args=argv), config=None)
    for name, value in asdict(saved).items():
        value_now = getattr(args, name)
        if value_now == "auto" and name in ("device", "precision", "matmul"):  # resolved in the checkpoint
            setattr(args, name, value)
        elif name not in ("resume", "total_timesteps") and value_now != value:
            flag = "--" + name.replace("_", "-")
            raise InputError(
                f"{flag} is {value!r} in {typed.resume}; a resumed run can only change --total-timesteps."
            )
    if args.total_timesteps < saved.total_timesteps:
        raise InputError(
            f"--total-timesteps was {saved.total_timesteps} in {typed.resume} and can only grow."
        )
    return args


def preset_args(cls: type, presets: dict[str, dict], env_id: str):
    """`cls` with the preset of `env_id`: an exact key before a pattern."""
    keys = [env_id] if env_id in presets else [key for key in presets if fnmatch.fnmatch(env_id, key)]
    return cls(**(presets[keys[0]] if keys else {}) | {"env_id": env_id})


def resume_args(cls: type, path: str):
    """The arguments inside a checkpoint, with `resume` set to its path. Raises
    InputError where they are not those of `cls`."""
    checkpoint = load_checkpoint(path, algorithm=script_name(cls))
    try:
        args = cls(**checkpoint["args"] | {"resume": str(path)})
        for name, kind in get_type_hints(cls).items():
            if not fits(getattr(args, name), kind):
                raise TypeError(f"{name} is {getattr(args, name)!r}")
        return args
    except TypeError as error:
        raise InputError(
            f"{path} does not fit this script: {error}. Resume with the version that wrote it."
        ) from error


def fits(value, kind) -> bool:
    """True for a value of exactly this type: a class, a union, a Literal or a tuple of one type."""
    if isinstance(kind, UnionType):
        return any(fits(value, choice) for choice in get_args(kind))
    if get_origin(kind) is Literal:
        return type(value) is str and value in get_args(kind)
    if get_origin(kind) is tuple:
        return type(value) is tuple and all(fits(item, get_args(kind)[0]) for item in value)
    return type(value) is kind


def check_args(args, at_least_one=(), at_least_zero=(), in_unit_interval=(), positive=(), at_least_two=()):
    """Checks the run fields, and the fields named. Raises InputError."""
    at_least_one = (
        "total_timesteps",
        "num_envs",
        "action_repeat",
        "frame_stack",
        "image_size",
        "eval_episodes",
        *at_least_one,
    )
    at_least_zero = ("seed", "patience", "checkpoint_frequency", "eval_frequency", *at_least_zero)
    for names, is_good, expected in (
        (at_least_one, lambda value: value >= 1, "at least 1"),
        (at_least_two, lambda value: value >= 2, "at least 2"),
        (at_least_zero, lambda value: value is None or value >= 0, "at least 0"),
        (in_unit_interval, lambda value: 0 <= value <= 1, "between 0 and 1"),
        (positive, lambda value: value is None or 0 < value < math.inf, "a positive number"),
    ):
        for name in names:
            require(is_good(getattr(args, name)), name, getattr(args, name), expected)
    for name, value in asdict(args).items():
        if isinstance(value, float):
            require(math.isfinite(value), name, value, "a finite number")
    require(args.seed < 2**32, "seed", args.seed, "below 2 ** 32, which is all that NumPy takes")
    require(args.frame_stack < 256, "frame_stack", args.frame_stack, "at most 255")


def script_name(cls: type) -> str:
    return Path(sys.modules[cls.__module__].__file__).stem


def _summary(cls: type) -> str:
    return (sys.modules[cls.__module__].__doc__ or "").strip()
