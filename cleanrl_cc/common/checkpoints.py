"""A checkpoint is everything that a run needs to go on, and is only data:
`torch.load(weights_only=True)` reads it.

`last.pt` names its replay file, which carries its step in its name and the same token in its seal: whenever
the process dies, `last.pt` and the file it names are a pair.
"""

import contextlib
import os
import random
import re
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from cleanrl_cc.common import announcements
from cleanrl_cc.common.errors import InputError
from cleanrl_cc.common.files import BLOCK_BYTES, atomic_file, read_seal, seal
from cleanrl_cc.common.machine import describe_arithmetic
from cleanrl_cc.common.updates import Adam

REPLAY = re.compile(r"replay-\d+(-[0-9a-f]{16})?\.npz(\.tmp)?")


class Agent(Protocol):
    """What a run needs of an algorithm: an nn.Module that acts, and says what it learns with."""

    num_updates: int

    @property
    def optimizers(self) -> Mapping[str, Adam]: ...

    def act(self, obs: np.ndarray, deterministic: bool = False) -> np.ndarray: ...

    def state_dict(self) -> dict[str, torch.Tensor]: ...

    def load_state_dict(self, state_dict: Mapping[str, torch.Tensor]) -> Any: ...


class Buffer(Protocol):
    """What a run needs of a replay or rollout buffer."""

    num_added: int  # rows, ever
    truncations: np.ndarray  # (rows, N), bool

    def arrays(self) -> Mapping[str, np.ndarray | torch.Tensor]:
        """The filled part by name, `num_added` included; once that is set, also where one is read back to."""
        ...


@dataclass(kw_only=True)
class Checkpoint:
    """What `last.pt` holds, key by key. `best.pt` holds the first five, and `evaluation`: what
    `evaluation.summarize` says of the episodes that made it the best."""

    algorithm: str  # name of the script
    args: dict[str, Any]  # its arguments
    recipe: dict[str, Any]  # arguments of `make_env`, without those of training alone
    global_step: int
    agent: dict[str, torch.Tensor]  # networks, targets, running statistics

    optimizers: dict[str, dict]
    num_updates: int
    metrics: dict[str, float]  # of the last update
    envs: list[dict]  # `Episodes.snapshot` of each environment
    random: dict[str, Any]  # `rng_state`
    other_ranks: list[dict] = field(default_factory=list)  # `envs` and `random` of the other processes
    replay: str  # name of the file beside this one
    replay_token: str = ""  # random, and in the seal of that file too
    computed_by: dict[str, str] = field(default_factory=dict)  # `machine.describe_arithmetic`
    best_return: float  # of the evaluations so far
    evaluated: list  # [global step, mean return] of the last one
    evaluation_due: bool = False  # whether that of this step was given up for a signal, or failed
    lines: dict[str, int] = field(default_factory=dict)  # of progress.csv and evaluations.csv
    episodes: list[list]  # [return, length] of those that ended since the last log line
    seconds: float  # of training, evaluations and checkpoints included
    tracker_id: str | None  # of the run at Weights & Biases

    @classmethod
    def load(cls, path: str | Path, algorithm: str, device: str) -> "Checkpoint":
        """Reads what a run goes on from, on `device`, and says what computes it now instead of what did.
        Raises InputError as `load_checkpoint`, and for a policy alone."""
        state = load_checkpoint(path, algorithm)
        needed = {f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING}
        if missing := needed - state.keys():
            raise InputError(
                f"{path} cannot be resumed, it lacks {', '.join(sorted(missing))}: "
                "resume from a run folder or its last.pt."
            )
        checkpoint = cls(**{f.name: state[f.name] for f in fields(cls) if f.name in state})
        here = describe_arithmetic(device)
        changed = [
            f"{name} {before}, here {here[name]}"
            for name, before in checkpoint.computed_by.items()
            if here.get(name, before) != before
        ]
        if changed:
            announcements.keep(
                f"{path} was computed by {'; '.join(changed)}: "
                "it goes on, but may no longer be the same bit for bit."
            )
        return checkpoint


def load_checkpoint(path: str | Path, algorithm: str | None = None) -> dict:
    """Reads a checkpoint file, or the `last.pt` of a run folder.

    Raises:
        InputError: missing, damaged by as little as a bit, not one of ours, or of another algorithm than
            `algorithm`.
    """
    file = Path(path) / "last.pt" if os.path.isdir(path) else Path(path)
    if not os.path.isfile(file):  # unlike `Path.is_file` it takes names that are too long
        hint = "give a run folder that holds last.pt, or the file itself."
        if os.path.isfile(file.parent / "args.json"):
            hint = f"the run in {file.parent} had none yet; start it again, with the same --run-name."
        raise InputError(f"There is no checkpoint at {file}: {hint}")
    try:
        read_seal(file)
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
        missing = {"algorithm", "args", "recipe", "agent", "global_step"} - checkpoint.keys()
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}): make it readable.") from error
    except Exception as error:
        # torch raises whatever its parsers do: UnpicklingError, RuntimeError, EOFError, ...
        raise InputError(
            f"{file} is damaged, or no checkpoint of this project ({type(error).__name__})."
        ) from error
    if missing:
        raise InputError(f"{file} is damaged: it lacks {', '.join(sorted(missing))}.")
    if not isinstance(checkpoint["algorithm"], str):
        raise InputError(f"{file} is damaged: its algorithm is no text.")
    if wrong := misshapen(checkpoint["recipe"]):
        raise InputError(f"{file} is damaged: its environment's {wrong}.")
    if algorithm not in (None, checkpoint["algorithm"]):
        raise InputError(
            f"{file} was written by {checkpoint['algorithm']}.py: resume it with that script, "
            f"not with {algorithm}.py."
        )
    if isinstance(checkpoint["args"], dict):
        checkpoint["args"] = args_of_today(checkpoint["args"])
    return checkpoint


def misshapen(recipe) -> str | None:
    """What is no text in the parts of a recipe that name code, in words; None if all is."""
    if not isinstance(recipe, dict) or not isinstance(recipe.get("env_id"), str):
        return "id is no text"
    wrappers = recipe.get("wrappers", ())
    if not isinstance(wrappers, list | tuple) or not all(isinstance(wrapper, str) for wrapper in wrappers):
        return "wrappers are no list of texts"
    return None


def args_of_today(args: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a run, also of one that an earlier version began, as this version names them."""
    args = {"matmul": "mkl"} | args  # it computed everything before there was a choice
    if patience := args.pop("patience", 0):  # counted agent steps
        patient = f"Patience,frames={patience * args['action_repeat']}"
        args["training_wrappers"] = (*args.get("training_wrappers", ()), patient)
    return args


def save_checkpoint(path: Path, state: Mapping[str, Any]):
    """Writes a checkpoint, whole or not at all. Raises InputError on a full disk."""
    with atomic_file(path) as file:
        torch.save(dict(state), file)
        seal(file, token="")


def refuse_module(env_id: str, source, remedy: str):
    """Raises InputError if `env_id` names a module that is not imported yet: importing it would run its code.

    Args:
        source: where the id comes from, for the message.
        remedy: what to add for the module to be imported.
    """
    module = env_id.rpartition(":")[0]
    if module and module not in sys.modules:
        raise InputError(
            f"{source} names the module {module!r}, which could run any code: if you trust it, add {remedy}."
        )


def refuse_wrappers(wrappers: Sequence[str], source, remedy: str):
    """Raises InputError if one of `wrappers` is not ours, as `refuse_module`. Of a module that is imported
    already, too: an environment's id only looks something up there, a wrapper's name calls it."""
    if modules := [wrapper.split(",")[0].rpartition(":")[0] for wrapper in wrappers if ":" in wrapper]:
        raise InputError(
            f"{source} has wrappers of the module {modules[0]!r}, which could run any code: if you trust it, "
            f"add {remedy}."
        )


def load_optimizers(agent: Agent, states: Mapping[str, dict]):
    """Gives the optimizers of `agent` their states by name. Raises ValueError for other names."""
    if states.keys() != agent.optimizers.keys():
        ours = ", ".join(agent.optimizers)
        raise ValueError(f"it holds the optimizers {', '.join(states) or 'none'}, and the script has {ours}")
    for name, optimizer in agent.optimizers.items():
        optimizer.load_state_dict(states[name])


def checked_arrays(buffer: Buffer) -> Mapping[str, np.ndarray | torch.Tensor]:
    """`buffer.arrays()`, of which a copied script may have more. Raises InputError for one that cannot be
    saved, or not be read back."""
    arrays = buffer.arrays()
    again = buffer.arrays()
    for name, array in arrays.items():
        column = f"{name} in arrays() of {type(buffer).__name__}"
        if not isinstance(array, np.ndarray | torch.Tensor):
            raise InputError(f"{column} must be an array of NumPy or a tensor, not a {type(array).__name__}.")
        try:
            values = torch.as_tensor(array)
            torch.empty(0, dtype=values.dtype).numpy()
        except TypeError as error:
            raise InputError(
                f"{column} is of {array.dtype}: only a type that NumPy and torch have both can be saved."
            ) from error
        # what is new at each call cannot be read back into
        if name != "num_added" and values.data_ptr() != torch.as_tensor(again[name]).data_ptr():
            raise InputError(
                f"{column} is a copy, and a resumed run would not give it back: keep an array in the buffer, "
                "np.zeros(1) for one number, and return it, or a slice of it."
            )
    return arrays


def save_replay(path: Path, arrays: Mapping[str, np.ndarray | torch.Tensor], token: str = ""):
    """Writes named arrays and tensors as .npz, one at a time: the buffer is never in memory twice."""
    columns: dict[str, Any] = {
        name: np.asarray(array.cpu() if isinstance(array, torch.Tensor) else array, order="C")
        for name, array in arrays.items()
    }
    with atomic_file(path) as file:
        np.savez(file, **columns)
        seal(file, token)


def load_replay(path: Path, buffer: Buffer, prefix: str = "", token: str = ""):
    """Reads what `save_replay` wrote of `buffer.arrays()` back into them, by
    blocks: the buffer is never in memory twice.

    Raises:
        ValueError, KeyError, zipfile.BadZipFile: the file holds other arrays, belongs to another checkpoint,
            or is damaged.
    """
    if read_seal(path) != token:
        raise ValueError(f"{path.name} belongs to another checkpoint")
    with np.load(path, allow_pickle=False) as arrays:
        buffer.num_added = int(arrays[prefix + "num_added"])
    with zipfile.ZipFile(path) as archive:
        for name, array in buffer.arrays().items():
            with archive.open(f"{prefix}{name}.npy") as stream:
                np.lib.format.read_magic(stream)
                shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
                if shape != tuple(array.shape):
                    raise ValueError(f"{name} has shape {shape} instead of {tuple(array.shape)}")
                values = torch.as_tensor(array)
                flat = values.contiguous().view(-1)
                for block in flat.split(BLOCK_BYTES // dtype.itemsize):
                    block.copy_(torch.from_numpy(np.frombuffer(bytearray(stream.read(block.nbytes)), dtype)))
                if not values.is_contiguous():
                    values.copy_(flat.view(values.shape))


def remove_replays(folder: Path, kept: str = ""):
    """Deletes the replay files of a run, unfinished ones too, but the one named `kept`. Whatever else someone
    has put there stays."""
    for file in folder.iterdir():
        if REPLAY.fullmatch(file.name) and file.name != kept and not file.is_dir():
            file.unlink()


def require_finite(agent: Agent, buffer: Buffer, global_step: int, folder: Path):
    """Raises InputError where weights or stored steps are not finite."""
    for what, tensors in (("weights", agent.state_dict()), ("stored", buffer.arrays())):
        if name := not_finite(tensors):
            raise InputError(
                f"The {what} {name} are not finite at step {global_step}: "
                f"the last good checkpoint is in {folder}."
            )


def not_finite(arrays: Mapping[str, np.ndarray | torch.Tensor]) -> str | None:
    """The name of one that holds NaN or infinity, None if none does."""
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray | torch.Tensor):  # what `get_extra_state` of a module returns
            continue
        values = torch.as_tensor(array)
        # `aminmax`, unlike `isfinite`, needs no second array; it hands on NaN
        if values.is_floating_point() and values.numel():
            smallest, largest = values.aminmax()
            if not (smallest.isfinite() and largest.isfinite()):
                return name
    return None


def rng_state(rng: np.random.Generator | None = None) -> dict:
    """The state of Python's, NumPy's and torch's global generators, and of `rng`, as plain data."""
    version, internal, gauss = random.getstate()
    name, keys, *rest = np.random.get_state()
    return {
        "python": [version, list(internal), gauss],
        "numpy": [name, keys.tolist(), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "rng": rng.bit_generator.state if rng else None,
    }


@contextlib.contextmanager
def kept_generators():
    """Gives Python's, NumPy's and torch's global generators back as they were."""
    state = rng_state()
    try:
        yield
    finally:
        set_rng_state(state)


def set_rng_state(state: dict, rng: np.random.Generator | None = None):
    """Inverse of `rng_state`."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    np.random.set_state(tuple(state["numpy"]))
    torch.set_rng_state(state["torch"])
    # on a machine with fewer GPUs the others are left out
    torch.cuda.set_rng_state_all(state["cuda"][: torch.cuda.device_count()])
    if rng:
        rng.bit_generator.state = state["rng"]
