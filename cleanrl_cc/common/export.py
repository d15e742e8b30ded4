"""A policy without this project: as an ONNX file, or in torch.export's own format.

What is exported is the graph of `act(obs, deterministic=True)`, so that normalisation, the scaling of images
and the choice of bins are inside, and no script describes its policy twice. Nothing here knows an algorithm.
"""

import contextlib
import json
import logging
import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from cleanrl_cc.common.errors import InputError
from cleanrl_cc.common.files import atomic_file
from cleanrl_cc.common.wrappers import TwoAxes, UnitActions


class DeterministicPolicy(nn.Module):
    """Observations (B, *obs_shape) to actions without exploration: (B, A) in [-1, 1], or (B,) integers."""

    def __init__(self, agent: nn.Module, continuous: bool):
        super().__init__()
        self.agent = deepcopy(agent)
        self.continuous = continuous
        for name, _ in list(self.agent.named_children()):
            if name.endswith("_target"):  # it never acts
                delattr(self.agent, name)
        for name, value in list(vars(self.agent).items()):
            if isinstance(value, np.ndarray):  # of a NumPy constant the graph has no values (torch 2.13)
                delattr(self.agent, name)
                self.agent.register_buffer(name, torch.as_tensor(value))

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        actions = torch.as_tensor(self.agent.act(obs, deterministic=True))
        return actions.clamp(-1, 1) if self.continuous else actions


def trace(agent: nn.Module, env: gym.Env) -> torch.export.ExportedProgram:
    """The policy of `agent`, which is on the CPU and in fp32, for batches of any size of what `env` emits."""
    module = DeterministicPolicy(agent, continuous=isinstance(env.action_space, gym.spaces.Box))
    space = env.observation_space
    obs = torch.zeros(
        2, *(space.shape or ()), dtype=torch.uint8 if space.dtype == np.uint8 else torch.float32
    )
    any_size = {"obs": {0: torch.export.Dim("batch")}}
    with quiet():
        return torch.export.export(module, (obs,), dynamic_shapes=any_size, strict=True)


def require_onnx():
    """Raises InputError where what writes ONNX files is missing."""
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(f'--export-onnx needs {error.name}: pip install -e ".[export]".') from error


def save_onnx(path: Path, program: torch.export.ExportedProgram, metadata: dict[str, str]):
    """Writes one file, weights and `metadata` inside, with an input `obs` and an output `action`.

    Raises:
        InputError: it cannot be written.
    """
    names: dict[str, Any] = {"input_names": ["obs"], "output_names": ["action"]}
    with quiet():
        exported = torch.onnx.export(program, dynamo=True, verbose=False, **names)
    for value in (*exported.model.graph.inputs, *exported.model.graph.outputs):
        value.shape[0] = "batch"
    exported.model.metadata_props.update(metadata)
    with atomic_file(path) as file:
        file.write(exported.model_proto.SerializeToString())


def save_torch(path: Path, program: torch.export.ExportedProgram, metadata: dict[str, str]):
    """Writes a file for `torch.export.load`, with `metadata.json` among its extra files.

    Raises:
        InputError: it cannot be written.
    """
    with quiet(), atomic_file(path) as file:
        torch.export.save(program, file, extra_files={"metadata.json": json.dumps(metadata)})


def describe(env: gym.Env, recipe: dict, source: dict) -> dict[str, str]:
    """What to feed an exported policy, and what its answers mean.

    Args:
        env: wrapped as the policy sees it.
        recipe: the arguments that `make_env` built it from.
        source: more entries, about where the policy comes from.
    """
    space, actions = env.observation_space, env.action_space
    if space.dtype == np.uint8:
        colours = "gray" if recipe["grayscale"] else "RGB"
        number = space.shape[0] // (1 if recipe["grayscale"] else 3)
        frames = f"the newest {number} {colours} frames, oldest first"
        obs = f"{frames}, as bytes from 0 to 255; scaling is inside"
    else:
        obs = "the environment's observation, flattened, in its own units; normalisation is inside"
    if isinstance(actions, gym.spaces.Discrete):
        action = f"int64 (batch,): one of {actions.n} actions, the first of them {actions.start}"
    else:
        action = (
            f"float32 (batch, {actions.shape[0]}) from -1 to 1, which stand for action_low and action_high"
        )
    metadata = {key: str(value) for key, value in source.items()} | {
        "obs": f"{space.dtype} (batch, {', '.join(map(str, space.shape or ()))}): {obs}",
        "action": action,
        "action_repeat": f"{recipe['action_repeat']} environment steps take the same action",
        "recipe": json.dumps(recipe),
    }
    if scaling := wrapper(env, UnitActions):
        metadata["action_low"] = json.dumps((scaling.center - scaling.half_range).tolist())
        metadata["action_high"] = json.dumps((scaling.center + scaling.half_range).tolist())
    if wrapper(env, TwoAxes):
        metadata["action"] += "; steering, and gas where the second is positive, brake where it is negative"
    return metadata


def wrapper(env: gym.Env, kind: type) -> Any | None:
    """The outermost wrapper of a class."""
    while isinstance(env, gym.Wrapper) and not isinstance(env, kind):
        env = env.env
    return env if isinstance(env, kind) else None


@contextlib.contextmanager
def quiet():
    """The exporters warn about libraries that nothing here uses."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
