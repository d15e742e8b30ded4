"""What a run runs on: device, threads, precision, and whether its buffer and its networks fit."""

import contextlib
import ctypes
import importlib.util
import math
import os
import platform
import random
import shutil
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.utils.hooks import RemovableHandle

from cleanrl_cc.common import announcements
from cleanrl_cc.common.errors import InputError, describe
from cleanrl_cc.common.memory import free_memory
from cleanrl_cc.common.vector import usable_cores

LIBRARIES = ("torch", "numpy", "gymnasium", "mujoco", "dm_control", "Box2D")


def start_torch(
    args, pixels: bool, batch_sizes: tuple[int, ...] = (), bf16_from_states: bool = False
) -> torch.device:
    """Seeds every generator, sets threads and the library of matrix products, and resolves "auto" in `args`.

    Args:
        args: the run's; "auto" in `device`, `precision` and `matmul`, and None in `num_threads`, becomes what
            was found, so that a resumed run keeps it. Where torch.compile finds no compiler, `compile`
            becomes False.
        pixels: whether the networks read images.
        batch_sizes: what acting and learning put through layers of `args.hidden_dim`:
            products by which "auto" chooses the library. () where a policy is only evaluated.
        bf16_from_states: whether the algorithm has been seen to learn as well in bf16 from states, so that
            "auto" may choose it there, too.
    """
    random.seed(args.seed)
    np.random.seed(args.seed)
    torch.manual_seed(args.seed)
    device = find_device(args.device)
    args.device = str(device)
    args.num_threads = args.num_threads or torch.get_num_threads()
    torch.set_num_threads(args.num_threads)
    if args.num_threads > usable_cores():  # a run that moved to a smaller machine
        announcements.keep(
            f"Warning: {args.num_threads} threads are slow where there are fewer processor cores: "
            f"--num-threads {usable_cores()} is faster."
        )
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        bf16_is_native = torch.cuda.is_bf16_supported(including_emulation=False)
        if torch.cuda.get_device_capability(device) >= (8, 0):
            announcements.keep("fp32 products are computed in TF32, with 10 bits of mantissa instead of 23.")
    else:
        # what is faster for 4,096 rows is faster for more, which might not fit; a policy alone acts on one
        products = [(min(rows, 4096), args.hidden_dim, args.hidden_dim) for rows in batch_sizes or (1,)]
        args.matmul = choose_matmul(args.matmul, products)
        bf16_is_native = torch.cpu._is_avx512_bf16_supported()
    if args.precision == "auto":
        if pixels:  # a card that has no bf16 says so below
            is_faster = (bf16_is_native or device.type == "cuda") and bf16_convolves_faster(device)
        else:
            known_to_learn = bf16_from_states and bf16_is_native and device.type == "cpu"
            is_faster = known_to_learn and bf16_multiplies_faster(products, args.compile)
        args.precision = "bf16" if is_faster else "fp32"
        if is_faster and device.type == "cpu":
            layers = "Convolutions" if pixels else "Hidden layers"
            announcements.keep(f"{layers} compute in bf16, which is faster here (--precision).")
    if args.precision == "bf16" and not bf16_is_native:
        if device.type == "cuda":  # before Ampere: V100, T4
            announcements.keep("Warning: this GPU has no bf16 instructions: it computes in fp32.")
            args.precision = "fp32"
        else:
            announcements.keep(
                "Warning: this processor has no bf16 instructions; "
                "--precision fp32 will be several times faster."
            )
    if args.compile and (missing := missing_compiler(device)):
        announcements.keep(f"Warning: --compile finds no {missing}: nothing is compiled.")
        args.compile = False
    torch.backends.cudnn.deterministic = True
    keep_pages()
    if batch_sizes:  # of a run, which owns its process
        watch_networks()
        sys.excepthook = tell_shortage
    return device


def missing_compiler(device: torch.device) -> str | None:
    """What torch.compile needs for `device` and does not find, in words; None if all is there."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        return f"C++ compiler ({compiler}, or what CXX names)"
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return "Triton"
    return None


# What torch calls the precision of fp32 products is on a CPU the choice between two libraries,
# and on some processors more than that.
MATMUL = {"mkl": "highest", "onednn": "medium"}


def choose_matmul(name: str, products: list[tuple[int, int, int]]) -> str:
    """Has fp32 matrix products computed by MKL (or the BLAS that torch was
    built with) or by oneDNN from here on.

    No constant is right. On AMD processors with AVX-512 oneDNN takes half of MKL's time for 256 x 256 x 256;
    elsewhere it gains nothing there and loses 15 µs at each small product; and where a processor multiplies
    bf16 matrices (AMX), what torch asks of oneDNN is bf16.

    Args:
        name: "mkl", "onednn", or "auto": oneDNN if it takes less than five sixths of MKL's time for all
            `products` together, which clocks that waver do not decide, and is as exact.

    Returns:
        The library in use: "mkl" also in place of a "onednn" that would compute in bf16 here.
    """
    if name != "mkl" and not onednn_is_exact():
        if name == "onednn":
            announcements.keep(
                "Warning: oneDNN would compute fp32 products in bf16 on this processor: MKL computes them."
            )
        name = "mkl"
    if name == "auto":
        seconds = {library: math.inf for library in MATMUL}
        for _ in range(3):  # in turns: a machine that slows down slows both
            for library, precision in MATMUL.items():
                torch.set_float32_matmul_precision(precision)
                seconds[library] = min(seconds[library], sum(time_product(*product) for product in products))
        name = "onednn" if seconds["onednn"] < 5 / 6 * seconds["mkl"] else "mkl"
        times = ", ".join(f"{key} {1e3 * s:.2f} ms" for key, s in seconds.items())
        announcements.keep(f"Matrix products by {name}: {times}")
    torch.set_float32_matmul_precision(MATMUL[name])
    return name


def onednn_is_exact() -> bool:
    """Whether fp32 products by oneDNN are fp32's here: their error is 1e-6 of the largest
    value, and that of bf16 products 3e-3."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(MATMUL["onednn"])
    matrix = torch.linspace(-1, 1, 256 * 256).sin().view(256, 256)  # draws from no generator
    exact = matrix.double() @ matrix.double().T
    error = (matrix @ matrix.T - exact).abs().max() / exact.abs().max()
    torch.set_float32_matmul_precision(before)
    return error.item() < 1e-5


def time_product(rows: int, in_dim: int, out_dim: int, dtype: torch.dtype = torch.float32) -> float:
    """Seconds of a linear layer, (rows, in_dim) to (rows, out_dim)."""
    shapes = (rows, in_dim), (out_dim, in_dim), (out_dim,)
    x, weight, bias = (torch.ones(shape, dtype=dtype) for shape in shapes)
    return shortest(lambda: F.linear(x, weight, bias))


def bf16_multiplies_faster(products: list[tuple[int, int, int]], compiled: bool) -> bool:
    """Whether linear layers take less time in bf16 than in fp32 on this CPU, by a fifth at least: what comes
    between them takes as long in both. In eager code that includes casts, which a graph joins with others."""
    seconds = []
    for is_bf16 in (True, False):
        dtype = torch.bfloat16 if is_bf16 and compiled else torch.float32
        with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
            seconds.append(sum(time_product(*product, dtype) for product in products))
    return seconds[0] < 0.8 * seconds[1]


def bf16_convolves_faster(device: torch.device) -> bool:
    """Whether a convolution of images takes less time in bf16 than in fp32, by a tenth at least."""
    if device.type == "cuda":
        return True
    images, weight = torch.ones(16, 32, 20, 20), torch.ones(64, 32, 4, 4)
    seconds = []
    for dtype in (torch.bfloat16, torch.float32):
        x, w = (tensor.to(dtype, memory_format=torch.channels_last) for tensor in (images, weight))
        seconds.append(shortest(lambda x=x, w=w: F.conv2d(x, w, stride=2)))
    return seconds[0] < 0.9 * seconds[1]


def shortest(function) -> float:
    """Seconds of the shortest of five calls, after one that does not count."""
    function()
    seconds = []
    for _ in range(5):
        begun = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


def find_device(name: str) -> torch.device:
    """A torch device from "auto", "cpu", "cuda" or "cuda:1". Raises InputError where it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("mps"):
        raise InputError(
            f"--device {name} is not supported, since Apple's GPUs have no float64: use --device cpu."
        )
    cards = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if name != "cpu" and not (cards and name in ("cuda", *cards)):
        there = ", ".join(["cpu", *cards])
        raise InputError(f"--device {name} is not available; this machine has: {there}.")
    try:
        torch.ones(1, device=name)
    except (RuntimeError, AssertionError) as error:  # an old driver or card, or one that is full
        raise InputError(f"--device {name} cannot be used: {describe(error)}.") from error
    return torch.device(name)


def keep_pages():
    """Tells glibc to keep freed memory: large batches otherwise map and zero fresh pages each
    update (2.4 times slower from pixels)."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-4, 0)  # M_MMAP_MAX
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def place_buffer(row_bytes: int, buffer_size: int, device: torch.device) -> torch.device:
    """Where a replay buffer of `buffer_size` transitions of `row_bytes` goes: on the training
    device if it fits there, else in memory.

    Raises:
        InputError: it fits nowhere; names the largest --buffer-size that does.
    """
    needed = row_bytes * buffer_size
    place = torch.device("cpu")
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        place = device if needed < 0.8 * free else place
        size = f"{needed / 1e9:.1f} GB on {place}; {free / 1e9:.1f} GB were free on {device}"
        announcements.keep(f"Replay buffer: {size}")
    if place.type == "cpu":
        require_memory(row_bytes, "buffer_size", buffer_size)
    return place


def to_device(values, device: torch.device, dtype: torch.dtype | None = None) -> torch.Tensor:
    """An array or tensor on the device. A GPU takes it from pinned memory while this process goes on."""
    tensor = torch.as_tensor(values, dtype=dtype)
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def require_memory(row_bytes: int, name: str, value: int):
    """Raises InputError where argument `name` asks for `value` rows of `row_bytes` and memory is
    short; names the largest that fits."""
    flag = f"--{name.replace('_', '-')}"
    needed = row_bytes * value
    free = free_memory()
    if needed > 0.9 * free:
        raise InputError(
            f"{flag} {value} needs {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free: "
            f"the largest that fits is {flag} {int(0.9 * free) // row_bytes}."
        )


_watching: list[RemovableHandle] = []


def watch_networks():
    """Refuses networks that memory is too small for before they take it: a system that promises more than it
    has would kill. Until `Run` has its agent."""
    free = free_memory()
    taken = 0

    def count(module: nn.Module, name: str, parameter: torch.Tensor | None):
        nonlocal taken
        # weights and targets, and of the weights gradient and Adam's two moments
        taken += 4 * parameter.nbytes if parameter is not None else 0
        if taken > free:
            unwatch_networks()
            raise InputError(
                f"Networks of these sizes need more than the {free / 1e9:.1f} GB that are free: "
                "choose fewer units, bins or atoms, or smaller images."
            )

    unwatch_networks()  # those of a run that ended before it had its agent
    _watching.append(register_module_parameter_registration_hook(count))


def unwatch_networks():
    for handle in _watching:
        handle.remove()
    _watching.clear()


def tell_shortage(kind: type[BaseException], error: BaseException, trace):
    """For sys.excepthook: memory that is refused, here or on a GPU, is told in a sentence."""
    text = str(error)
    if issubclass(kind, MemoryError) or "out of memory" in text or "t allocate memory" in text:
        announcements.say(
            "There is not enough memory: choose a smaller batch, buffer or network, or fewer environments; "
            f"what was saved is whole ({describe(error)})."
        )
    else:
        sys.__excepthook__(kind, error, trace)


def describe_machine(device: torch.device) -> dict:
    """For the record: processor and what it computes with, cores, torch threads and GPU."""
    processor = platform.processor()
    with contextlib.suppress(OSError, StopIteration):  # Linux knows the model's name
        line = next(
            line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
        )
        processor = line.split(":", 1)[1].strip()
    return {
        "processor": processor,
        "kind": processor_kind(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
    }


def describe_versions() -> dict[str, str]:
    """For the record: the versions of the libraries that compute a run's numbers, by name."""
    versions = {}
    for name in LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def describe_arithmetic(device: str) -> dict[str, str]:
    """What decides the last bits of a run's numbers beside its arguments: processor, GPU and versions."""
    machine = describe_machine(torch.device(device))
    gpu = {"GPU": machine["gpu"]} if machine["gpu"] else {}
    return {"processor": f"{machine['processor']} ({machine['kind']})"} | gpu | describe_versions()


def processor_kind() -> str:
    """What this processor multiplies with, by which speeds differ threefold: "AVX2", "AVX512",
    "AVX512 bf16" or "AVX512 bf16 AMX"."""
    bf16 = " bf16" if torch.cpu._is_avx512_bf16_supported() else ""
    amx = " AMX" if torch.cpu._is_amx_tile_supported() else ""
    return torch.backends.cpu.get_cpu_capability() + bf16 + amx
