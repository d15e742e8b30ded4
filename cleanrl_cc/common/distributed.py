"""Several processes of one run, on one machine or many, started by torchrun. In a run of
one process nothing here does anything.

Each plays in environments of its own. All begin with the weights of rank 0 and make the same gradient steps.
"""

import os
from datetime import timedelta
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from cleanrl_cc.common.errors import InputError


def rank() -> int:
    """The number of this process; 0 alone logs, evaluates and writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def launcher() -> str:
    """What started this process, and starts it again; where machines meet (HOST:PORT) may have changed."""
    if not dist.is_torchelastic_launched():
        return "python"
    processes = os.environ["LOCAL_WORLD_SIZE"]
    machines = int(os.environ["GROUP_WORLD_SIZE"])
    several = f" --nnodes {machines} --rdzv-backend c10d --rdzv-endpoint HOST:PORT" if machines > 1 else ""
    return f"torchrun --nproc-per-node {processes}{several}"


def take_rank(args):
    """Puts the seed and the GPU of this process into `args`; rank 0 keeps the user's seed. What one process
    finds by timing, several would each find for themselves: they compute in fp32, by MKL, unless told."""
    if dist.is_torchelastic_launched():
        if os.environ["WORLD_SIZE"] != "1":
            args.precision = args.precision.replace("auto", "fp32")
            args.matmul = args.matmul.replace("auto", "mkl")
        if number := int(os.environ["RANK"]):
            args.seed = int(np.random.SeedSequence((args.seed, number)).generate_state(1)[0])
        if args.device.startswith("cuda") or (args.device == "auto" and torch.cuda.is_available()):
            args.device = f"cuda:{os.environ['LOCAL_RANK']}"


def require_connected(algorithm: str):
    """Raises InputError where torchrun started several processes of a script that does not `connect` them."""
    several = dist.is_torchelastic_launched() and os.environ["WORLD_SIZE"] != "1"
    if several and not dist.is_initialized():
        raise InputError(f"{algorithm}.py learns in one process, and torchrun starts several: use python.")


Network = TypeVar("Network", bound=nn.Module)


def connect(agent: Network) -> Network:
    """Waits for the other processes, and gives `agent` the weights of rank 0."""
    if dist.is_torchelastic_launched():
        backend = "cpu:gloo,cuda:nccl" if agent.device.type == "cuda" else "gloo"
        # all wait while rank 0 evaluates; torchrun sees to failures
        dist.init_process_group(backend, timeout=timedelta(days=1))
        for tensor in agent.state_dict().values():
            if isinstance(tensor, Tensor):  # and not what `get_extra_state` of a module returns
                dist.broadcast(tensor, 0)
    return agent


def disconnect():
    if dist.is_initialized():
        dist.destroy_process_group()


def sum_over_processes(tensor: Tensor) -> Tensor:
    """The tensor, of the same shape in all processes, becomes the sum of theirs."""
    if size() > 1:
        dist.all_reduce(tensor)
    return tensor


def mean_over_processes(tensors: tuple[Tensor, ...], num_rows: int) -> tuple[Tensor, ...]:
    """Means over the rows of all processes, from those over the `num_rows` of each."""
    if size() == 1:
        return tensors
    # the last element counts the rows
    flat = torch.cat([*(tensor.flatten() for tensor in tensors), tensors[0].new_ones(1)])
    total = sum_over_processes(flat * num_rows)
    means = (total[:-1] / total[-1]).split([tensor.numel() for tensor in tensors])
    return tuple(mean.view_as(tensor) for mean, tensor in zip(means, tensors, strict=True))


def exchange(*numbers: int) -> list[list[int]]:
    """The numbers of every process, by rank. It also makes all wait for the last."""
    rows = [torch.tensor(numbers) for _ in range(size())]
    dist.all_gather(rows, torch.tensor(numbers))
    return [row.tolist() for row in rows]


def gather(data) -> list | None:
    """The plain data of every process, by rank: on rank 0, None elsewhere."""
    if size() == 1:
        return [data]
    everything = [None] * size() if rank() == 0 else None
    dist.gather_object(data, everything)
    return everything
