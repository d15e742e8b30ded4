"""Warns of what a copied script remembers from step to step and no checkpoint holds: a resumed run would
begin with its first value, and silently go on differently."""

import random
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from cleanrl_cc.common.checkpoints import checked_arrays
from cleanrl_cc.common.errors import InputError
from cleanrl_cc.common.updates import Adam

OF_EVERY_MODULE = frozenset(vars(nn.Module()))
OPTIMIZERS = (Adam, torch.optim.Optimizer)
OPAQUE = (type, FunctionType, MethodType, ModuleType, partial, gym.Env, gym.vector.VectorEnv, *OPTIMIZERS)
DEPTH = 4  # of lists, dictionaries and objects in each other


class Unsaved:
    """Compares what an agent and its buffer hold with what they held when they were made.

    Saved are parameters and buffers of modules, what `get_extra_state()` of a module returns, `optimizers`,
    `num_updates`, and what `arrays()` returns. All else a resumed run makes anew, as is right for what never
    changes. A buffer of a module that is not persistent is not compared: whoever said so meant it.

    Raises:
        InputError: an optimizer that is not in `optimizers`, or an array that cannot be saved.
    """

    def __init__(self, agent, buffer):
        require_optimizers(agent)
        checked_arrays(buffer)
        self.agent = agent
        self.buffer = buffer
        self.first = self._marks()

    def check(self, warn: Callable[[str], Any]):
        """Warns of what has changed and is not saved. Raises InputError for an array that cannot be saved."""
        checked_arrays(self.buffer)
        for name, now in self._marks().items():
            if now != self.first.get(name):
                warn(
                    f"{name} has changed and is in no checkpoint: a resumed run would begin with its first "
                    "value. Unless each step computes it anew, make it a tensor of the agent by "
                    "self.register_buffer, or an array of the buffer that arrays() returns."
                )

    def _marks(self) -> dict[str, Any]:
        arrays = self.buffer.arrays()
        saved = {memory(array) for array in arrays.values()}
        saved |= {memory(tensor) for tensor in self.agent.state_dict().values() if isinstance(tensor, Tensor)}
        held = {f"{type(self.agent).__name__}.{name}": value for name, value in attributes(self.agent)}
        for name, value in vars(self.buffer).items():
            if name not in ("args", *arrays):
                held[f"{type(self.buffer).__name__}.{name}"] = value
        return {name: mark(value, saved) for name, value in held.items()}


def require_optimizers(agent):
    """Raises InputError for an optimizer of `agent` that is not in its `optimizers`."""
    saved = {id(optimizer) for optimizer in agent.optimizers.values()}
    for name, value in vars(agent).items():
        for part in value if isinstance(value, list | tuple) else [value]:
            if isinstance(part, OPTIMIZERS) and id(part) not in saved:
                raise InputError(
                    f"{type(agent).__name__}.{name} would not be saved: "
                    "put it into the dictionary self.optimizers, too, under a name of its own."
                )


def attributes(agent: nn.Module) -> Iterator[tuple[str, Any]]:
    """By its path, what each module of `agent` holds beside parameters, buffers and modules, unless it says
    itself what it saves."""
    for path, module in agent.named_modules():
        if type(module).get_extra_state is not nn.Module.get_extra_state:
            continue
        for name, value in vars(module).items():
            if name not in OF_EVERY_MODULE and name not in ("args", "num_updates", "optimizers"):
                yield f"{path}.{name}".lstrip("."), value


def memory(array: np.ndarray | Tensor) -> int:
    """Where the memory begins that an array or a tensor, or the one that it is a slice of, takes."""
    if isinstance(array, Tensor):
        return array.untyped_storage().data_ptr()
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array.ctypes.data


def mark(value, saved: set[int], depth: int = DEPTH) -> Any:
    """What changes if the numbers of `value` do, also those inside of lists, dictionaries and objects.

    Args:
        saved: where the memory begins of arrays and tensors that do not count.
        depth: how far inside it looks.
    """
    inside = partial(mark, saved=saved, depth=depth - 1)
    if isinstance(value, bool | int | float | complex | str | bytes | np.generic):
        return repr(value)
    if isinstance(value, np.ndarray):
        return None if memory(value) in saved else zlib.crc32(value.tobytes())
    if isinstance(value, Tensor):
        if value.layout is not torch.strided or memory(value) in saved:
            return None
        return zlib.crc32(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, torch.Generator):
        return inside(value.get_state())
    if depth == 0 or isinstance(value, OPAQUE):
        return None
    if isinstance(value, list | tuple | deque):
        return [inside(part) for part in value]
    if isinstance(value, Mapping):
        return {key: inside(part) for key, part in value.items()}
    if hasattr(value, "state_dict"):  # a module in a list, which torch does not look into
        return inside(value.state_dict())
    is_of_torch = type(value).__module__.partition(".")[0] == "torch"
    return inside(vars(value)) if hasattr(value, "__dict__") and not is_of_torch else None
