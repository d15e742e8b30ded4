"""What a run runs on: device, threads, precision, and how much memory there is."""

import contextlib
import ctypes
import os
import platform
import random
import shutil
import sys
from pathlib import Path

import numpy as np
import psutil
import torch
from torch import nn

from cleanrl_cc.envs import InputError, require


def start_torch(args, pixels: bool) -> torch.device:
    """Seeds every generator, sets threads and matmul precision, and resolves "auto" in `args.device` and, for `pixels` or not,
    `args.precision`. Where torch.compile finds no compiler, `args.compile` becomes False."""
    random.seed(args.seed)
    np.random.seed(args.seed)
    torch.manual_seed(args.seed)
    device = find_device(args.device)
    args.device = str(device)
    if args.num_threads is not None:
        require(args.num_threads >= 1, "num_threads", args.num_threads, "at least 1")
        torch.set_num_threads(args.num_threads)
    bf16_is_native = device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()
    if args.precision == "auto":
        args.precision = "bf16" if bf16_is_native and pixels else "fp32"
    if args.precision == "bf16" and not bf16_is_native:
        print("Warning: this processor has no bf16 instructions; --precision fp32 will be several times faster.", file=sys.stderr)
    compiler = os.environ.get("CXX", "g++")
    if args.compile and shutil.which(compiler) is None:
        print(f"Warning: --compile finds no C++ compiler ({compiler}, or what CXX names): updates are not compiled.", file=sys.stderr)
        args.compile = False
    # TF32 on a GPU. On a CPU "medium" is another library, as fast for products of 256^3 and 15 µs slower for each small one.
    torch.set_float32_matmul_precision("medium" if device.type == "cuda" else "highest")
    torch.backends.cudnn.deterministic = True
    keep_pages()
    return device


def find_device(name: str) -> torch.device:
    """A torch device from "auto", "cpu", "cuda" or "cuda:1". Raises InputError where it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=name).item()  # "meta" exists but holds no data
        return torch.device(name)
    except (RuntimeError, AssertionError) as error:
        count = torch.cuda.device_count()
        there = "cpu" + "".join(f", cuda:{i}" for i in range(count))
        raise InputError(f"--device {name} is not there; this machine has: {there}.") from error


def keep_pages():
    """Tells glibc to keep freed memory: large batches otherwise map and zero fresh pages each update (2.4 times slower from pixels)."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-4, 0)  # M_MMAP_MAX
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def flatten(module: nn.Module) -> torch.Tensor:
    """Makes the parameters of `module` views of one tensor (number of weights,), which is returned, and their gradients views of its
    gradient: Adam and clipping take one call instead of one per parameter, and an update of small networks 0.87 of the time."""
    parameters = list(module.parameters())
    sizes = [parameter.numel() for parameter in parameters]
    flat = parameters[0].new_empty(sum(sizes))
    flat.grad = torch.zeros_like(flat)
    for parameter, weights, gradient in zip(parameters, flat.data.split(sizes), flat.grad.split(sizes), strict=True):
        layout = parameter.shape, parameter.stride()  # those of a convolution may be channels_last
        parameter.data, parameter.grad = weights.as_strided(*layout).copy_(parameter.data), gradient.as_strided(*layout)
    return flat


def free_memory(root: Path = Path("/")) -> int:
    """Bytes that this process may still use: what is free, or what its cgroup, or one above it, leaves if that is less."""
    free, paths = psutil.virtual_memory().available, {}
    with contextlib.suppress(OSError):
        paths = dict(line.split(":", 2)[1:] for line in (root / "proc/self/cgroup").read_text().splitlines())
    for controller, folder, limit_file, usage_file, cache in (
        ("", "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),  # version 2
        ("memory", "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        place = root / folder / paths.get(controller, "").lstrip("/")
        for cgroup in (place, *place.parents):  # in a container its own may be `folder` itself
            with contextlib.suppress(OSError, ValueError):
                limit, usage = (int((cgroup / name).read_text()) for name in (limit_file, usage_file))
                stat = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
                free = min(free, limit - usage + int(stat.get(cache, 0)))
    return free


def place_buffer(row_bytes: int, buffer_size: int, device: torch.device) -> torch.device:
    """Where a replay buffer of `buffer_size` transitions of `row_bytes` goes: on the training device if it fits there, else in memory.

    Raises:
        InputError: it fits nowhere; names the largest --buffer-size that does.
    """
    if device.type == "cuda" and row_bytes * buffer_size < 0.8 * torch.cuda.mem_get_info(device)[0]:
        return device
    require_memory(row_bytes, "buffer_size", buffer_size)
    return torch.device("cpu")


def require_memory(row_bytes: int, name: str, value: int):
    """Raises InputError where argument `name` asks for `value` rows of `row_bytes` and memory is short; names the largest that fits."""
    flag, needed, free = f"--{name.replace('_', '-')}", row_bytes * value, free_memory()
    if needed > 0.9 * free:
        raise InputError(
            f"{flag} {value} needs {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free: "
            f"the largest that fits is {flag} {int(0.9 * free) // row_bytes}."
        )


def describe_machine(device: torch.device) -> dict:
    """For the record: processor, cores, torch threads and GPU."""
    processor = platform.processor()
    with contextlib.suppress(OSError, StopIteration):  # Linux knows the model's name
        line = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
        processor = line.split(":", 1)[1].strip()
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
    }
