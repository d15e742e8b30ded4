"""What a run is told: the fields that all scripts have, their ranges,
presets, and what a resumed run may change."""

import argparse
import fnmatch
import re
import sys
from dataclasses import asdict, dataclass, field, fields, make_dataclass
from functools import cache, partial
from typing import Annotated, Literal, get_type_hints

import tyro

from cleanrl_cc.common import announcements
from cleanrl_cc.common.checkpoints import load_checkpoint, refuse_module, refuse_wrappers
from cleanrl_cc.common.config import read_config, require_argument
from cleanrl_cc.common.episodes import is_plain
from cleanrl_cc.common.errors import InputError, require
from cleanrl_cc.common.ranges import Count, Range, Seed, Size, Small, Steps, Whole, admits, expected
from cleanrl_cc.common.scripts import script_name, source_of, typed_words

# --- the fields of every run ---


@dataclass
class RunArgs:
    """The fields that only say what is emitted and recorded; a script's `Args` adds its algorithm's.
    The comments name the groups of --help."""

    # Run
    env_id: str = "CarRacing-v3"
    """environment: any id that Gymnasium knows, dm_control/walker-walk-v0, or my_module:MyEnv-v0"""
    seed: Seed = 1
    """seed of Python, NumPy, torch and every training environment"""
    total_timesteps: Count = 1_000_000
    """length of the run in global steps: agent steps, summed over parallel environments"""
    num_envs: Size = 1
    """parallel environments, spread over one process per core"""
    config: str | None = None
    """YAML file, one argument per line (`learning_rate: 1e-3`): beats the preset; what is typed beats it"""

    # Environment
    obs: Literal["auto", "pixels", "state"] = "auto"
    """what the agent observes; auto: pixels where the environment emits images, else state"""
    action_set: Literal["auto", "native", "gentle", "five"] = "auto"
    """action space; auto: two axes in CarRacing, continuous in LunarLander; native: the environment's own; of
    CarRacing, gentle: two axes with less gas, brake and steering, five: its five discrete actions"""
    action_repeat: Small = 1
    """environment steps per agent step; rewards are summed, and only the last frame is rendered"""
    frame_stack: Annotated[Whole, Range(1, 255)] = 4  # ages in an episode are stored as bytes
    """frames in a pixel observation"""
    image_size: Small = 84
    """height and width of a pixel observation"""
    grayscale: bool = True
    """one gray channel per frame instead of RGB"""
    wrappers: tuple[str, ...] = ()
    """wrappers of the environment, also in evaluations, innermost first: module:Class,argument=1.5"""
    training_wrappers: tuple[str, ...] = ()
    """wrappers of training environments alone, innermost first: RoadRules, Patience,frames=200 (which ends
    episodes without reward), or module:Class,argument=1.5"""

    # Machine
    device: str = "auto"
    """torch device: auto, cpu, cuda or cuda:1"""
    num_threads: Small | None = None
    """torch threads; None: torch decides at the start, and a resumed run keeps to it"""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16: in all layers but the last, from pixels in SAC, TD3 and DDPG in the convolutions alone; auto:
    where it is faster and known to learn as well (from pixels; in DDPG from states, too)"""
    matmul: Literal["auto", "mkl", "onednn"] = "auto"
    """library of fp32 matrix products on a CPU; auto: the faster one, found by timing both at the start"""
    compile: bool = False
    """one graph of each whole update by torch.compile, which needs a C++ compiler, on a GPU Triton; the first
    update then takes up to several minutes, and the others less time"""

    # Run folder
    runs_dir: str = "runs"
    """folder in which the run folder is made"""
    run_name: str | None = None
    """name of the run folder; None: environment, script, seed and time"""
    resume: str | None = None
    """run folder, or its last.pt, to continue with its own arguments: --total-timesteps may grow, and what is
    evaluated, saved, filmed and tracked may change. With another --device, --num-threads or --compile it is
    no longer the same bit for bit. Flags that name a module of yours have to be typed again, since its code
    is run"""
    checkpoint_frequency: Steps = 25_000
    """global steps between checkpoints; 0: only at the end and when stopped"""
    eval_frequency: Steps = 10_000
    """global steps between evaluations; 0: only at the end"""
    eval_episodes: Size = 10
    """episodes per evaluation, played deterministically"""
    keep_policies: bool = False
    """file of the policy at each evaluation, policy-<step>.pt, beside the best one"""
    capture_video: bool = False
    """video of the first episode of each evaluation"""
    track: bool = False
    """Weights & Biases log beside TensorBoard's"""
    wandb_project: str = "cleanrl_cc"
    """Weights & Biases project"""
    wandb_entity: str | None = None
    """Weights & Biases team or user"""


# --- the command line ---

# What may be typed again for a resumed run, beside --total-timesteps.
RECORDING = ("checkpoint_frequency", "eval_frequency", "eval_episodes", "keep_policies")
RECORDING += ("capture_video", "track", "wandb_project", "wandb_entity")
MACHINE = ("device", "num_threads", "compile")
# What a machine decides unless it is typed.
FOUND = {"device": "auto", "precision": "auto", "matmul": "auto", "num_threads": None}


def parse_args(cls: type, presets: dict[str, dict], argv: list[str] | None = None):
    """The command line as an instance of the dataclass `cls`.

    Defaults come from the preset whose key matches --env-id (keys may hold * and ?), or from the checkpoint
    when resuming: then --total-timesteps may grow, `RECORDING` and `MACHINE` may differ, and nothing else.
    What --config says is read as if it were typed before all else.

    Raises:
        InputError: a checkpoint that cannot be resumed, a file that is no configuration, or an argument that
            may not change.
    """
    announcements.forget()  # what a run that failed in this process could not say
    argv = typed_words()[1:] if argv is None else argv
    configs = [config for config in look_ahead(argv).config if config is not None]
    if len(configs) > 1:
        raise InputError(f"--config is given {len(configs)} times: put everything into one file.")
    argv = [*(word for config in configs for word in read_config(config, cls)), *argv]
    typed = look_ahead(argv)
    if typed.resume is None:
        return read_words(argv, preset_args(cls, presets, typed.env_id or cls.env_id))

    saved = resume_args(cls, typed.resume)
    if typed.env_id is None:  # the folder may have been downloaded
        refuse_module(saved.env_id, typed.resume, f"--env-id {saved.env_id}")
    if typed.wrappers is None:
        refuse_wrappers(saved.wrappers, typed.resume, f"--wrappers {' '.join(saved.wrappers)}")
    if typed.training_wrappers is None:
        remedy = f"--training-wrappers {' '.join(saved.training_wrappers)}"
        refuse_wrappers(saved.training_wrappers, typed.resume, remedy)
    args = read_words(argv, saved)
    keep_to(saved, args)
    return args


def keep_to(saved: RunArgs, args: RunArgs):
    """Puts what its machine decided into the arguments of a resumed run, and says if it moves.

    Raises:
        InputError: one differs from `saved`, those in the checkpoint, that may not.
    """
    moved = []
    for name, value in asdict(saved).items():
        value_now = getattr(args, name)
        flag = "--" + name.replace("_", "-")
        if name in FOUND and value_now == FOUND[name]:  # what was found for it is in the checkpoint
            setattr(args, name, value)
        elif name in ("resume", "total_timesteps", *RECORDING) or value_now == value:
            continue
        elif name in MACHINE:
            moved.append(f"{flag} {value}")
        else:
            raise InputError(
                f"{flag} is {value!r} in {args.resume} and must stay so: a resumed run can change "
                "--total-timesteps, --device, --num-threads, --compile, and what is evaluated, saved, filmed "
                "and tracked."
            )
    if moved:
        announcements.keep(
            f"{args.resume} had {' and '.join(moved)}: it goes on, but is no longer the same bit for bit."
        )
    if args.total_timesteps < saved.total_timesteps:
        raise InputError(f"--total-timesteps was {saved.total_timesteps} in {args.resume} and can only grow.")


def look_ahead(argv: list[str]) -> argparse.Namespace:
    """The words that decide what the defaults of the others are. tyro reports a missing value."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--env-id", "--env_id", nargs="?")
    parser.add_argument("--wrappers", nargs="*")
    parser.add_argument("--training-wrappers", "--training_wrappers", nargs="*")
    parser.add_argument("--resume", nargs="?")
    parser.add_argument("--config", nargs="?", action="append", default=[])
    return parser.parse_known_args(argv)[0]


def read_words(argv: list[str], default):
    """`default` with what the words of a command line change; --help shows its fields in their groups."""
    cls = type(default)
    kinds = get_type_hints(cls, include_extras=True)
    groups = {}
    for name, (group, text) in describe_fields(cls).items():
        kind = Annotated[kinds[name], tyro.conf.arg(help=text)]
        value = field(default_factory=partial(getattr, default, name))
        groups.setdefault(group, []).append((name, kind, value))
    boxes = []
    for number, (group, members) in enumerate(groups.items()):
        box = make_dataclass(f"Group{number}", members)
        titled = Annotated[box, tyro.conf.arg(name=group, help="")]
        boxes.append((f"group_{number}", titled, field(default_factory=box)))
    grouped = tyro.conf.OmitArgPrefixes[make_dataclass("Groups", boxes)]
    parsed = tyro.cli(grouped, description=_summary(cls), args=argv)
    values = {name: value for box in vars(parsed).values() for name, value in vars(box).items()}
    return cls(**values | {"config": None})


@cache
def describe_fields(cls: type) -> dict[str, tuple[str, str]]:
    """Each field's group, the comment above it, and its docstring, from the source of `cls` and its bases."""
    described = {item.name: ("Other", "") for item in fields(cls) if item.init}
    for base in reversed(cls.__mro__[:-1]):
        group = "Other"
        line = r'^    (?:# (.+)|(\w+): .+(?:\n    """((?:.|\n)*?)""")?)$'
        for comment, name, text in re.findall(line, source_of(base), re.M):
            if comment:
                group = comment
            elif name in described:
                described[name] = group, " ".join(text.split())
    return described


def preset_args(cls: type, presets: dict[str, dict], env_id: str):
    """`cls` with the preset of `env_id`: an exact key before a pattern. Raises InputError for a preset that
    does not fit."""
    keys = [env_id] if env_id in presets else [key for key in presets if fnmatch.fnmatch(env_id, key)]
    preset = presets[keys[0]] if keys else {}
    for name in preset:
        require_argument(name, cls, f"PRESETS[{keys[0]!r}]")
    args = cls(**preset | {"env_id": env_id})
    check_types(args)
    return args


def resume_args(cls: type, path: str):
    """The arguments inside a checkpoint, with `resume` set to its path. Raises
    InputError where they are not those of `cls`."""
    checkpoint = load_checkpoint(path, algorithm=script_name(cls))
    try:
        args = cls(**checkpoint["args"] | {"resume": str(path)})
        check_types(args)
    except (TypeError, InputError) as error:
        reason = str(error).rstrip(".")
        raise InputError(
            f"{path} does not fit this script: {reason}. Resume with the version that wrote it."
        ) from error
    return args


def check_args(args):
    """Raises InputError for the first field of `args` that is not of its type, or out of its range; or, where
    Python asks for a resumed run, is not that of its checkpoint."""
    check_types(args)
    if not isinstance(args, RunArgs):
        return
    check_kept(args)
    if args.resume is not None:
        keep_to(resume_args(type(args), args.resume), args)


def check_types(args):
    """Raises InputError for the first field of `args` that is not of its type, or out of its range. A whole
    number in the place of a float becomes one."""
    for name, kind in get_type_hints(type(args), include_extras=True).items():
        value = getattr(args, name)
        wrong = expected(value, kind)
        require(wrong is None, name, value, wrong)
        if type(value) is int and admits(kind, float) and not admits(kind, int):
            setattr(args, name, float(value))


def check_kept(args: RunArgs):
    """Raises InputError unless a checkpoint can hold `args`, and a resumed run finds the same there: a copied
    script may have a field of any type, and its __post_init__ may do anything."""
    saved = {item.name: getattr(args, item.name) for item in fields(args)}
    for name, value in saved.items():
        require(is_plain(value), name, value, "numbers, text, or lists and dictionaries of them, to be saved")
    try:
        found = type(args)(**saved)
    except TypeError as error:
        raise InputError(f"A resumed run could not read its arguments back: {error}.") from error
    for name, value in saved.items():
        if getattr(found, name) != value:
            flag = "--" + name.replace("_", "-")
            raise InputError(
                f"{flag} is {value!r} and would be {getattr(found, name)!r} in a resumed run: "
                "let __post_init__ leave the fields as they are."
            )


def module_words(args: RunArgs) -> list[str]:
    """What is to be typed again for a run to be resumed: names of modules, which are imported only then."""
    words = ["--env-id", args.env_id] if ":" in args.env_id else []
    for flag, names in (("--wrappers", args.wrappers), ("--training-wrappers", args.training_wrappers)):
        words += [flag, *names] if any(":" in name for name in names) else []
    return words


def _summary(cls: type) -> str:
    return (sys.modules[cls.__module__].__doc__ or "").strip()
