"""What an update is made of in all six scripts: Adam, clipped gradients, one graph of it all, and one copy of
what it learns from."""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cleanrl_cc.common import announcements

Tensors = tuple[Tensor, ...] | list[Tensor]
ALIGNMENT = 16  # bytes that a GPU's kernels read at once
BETA1 = 0.9
BETA2 = 0.999


class Adam:
    """Adam (Kingma & Ba 2015, arXiv:1412.6980, algorithm 1). Its rate and its number of steps are tensors, so
    that a graph of a whole update is still the right one when they change; its state is torch's Adam's.

    Args:
        parameters: what it moves. They stay the same tensors.
        learning_rate: α, until `learning_rate.fill_` changes it.
        eps: ε, the smallest deviation that a gradient is divided by.
    """

    def __init__(self, parameters: Iterable[Tensor], learning_rate: float, eps: float = 1e-8):
        self.parameters = list(parameters)
        self.eps = eps
        device = self.parameters[0].device
        # float64 as Python's numbers; torch's CUDA kernel reads float32
        dtype = torch.float32 if device.type == "cuda" else torch.float64
        self.learning_rate = torch.tensor(learning_rate, dtype=dtype, device=device)
        self.num_steps = torch.zeros((), device=device)
        self.means = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.squares = [torch.zeros_like(parameter) for parameter in self.parameters]
        if device.type == "cuda":
            for tensor in (self.learning_rate, self.num_steps, *self.means, *self.squares):
                torch._dynamo.mark_static_address(tensor)  # a CUDA graph may change it in place

    @torch.no_grad()
    def step(self, gradients: Tensors):
        """Moves the parameters against `gradients`, which come in their order."""
        self.num_steps += 1
        if not torch.compiler.is_compiling():
            self._fused_step(gradients)
            return
        # m ← β₁ m + (1 - β₁) g,  v ← β₂ v + (1 - β₂) g²,  θ ← θ - α m̂ / (√v̂ + ε),
        # m̂ = m / (1 - β₁ᵗ),  v̂ = v / (1 - β₂ᵗ)
        # βᵗ as exp(t log β): torch's compiler keeps what an exp gave, and would take a pow anew for every 16
        # weights, 6 to 10 % of an update from states
        num_steps = self.num_steps.double()  # 1 - β₂ᵗ loses four digits at first
        step_size = self.learning_rate / (1 - torch.exp(num_steps * math.log(BETA1)))
        correction = (1 - torch.exp(num_steps * math.log(BETA2))).sqrt()
        torch._foreach_lerp_(self.means, gradients, 1 - BETA1)
        torch._foreach_mul_(self.squares, BETA2)
        torch._foreach_addcmul_(self.squares, gradients, gradients, 1 - BETA2)
        for parameter, mean, square in zip(self.parameters, self.means, self.squares, strict=True):
            parameter.sub_(step_size * mean / (square.sqrt() / correction + self.eps))

    def _fused_step(self, gradients: Tensors):
        """The same, by torch's own kernel: it takes half of the formula's time, but no graph may hold it."""
        torch._fused_adam_(
            self.parameters,
            [as_laid_out(*pair) for pair in zip(gradients, self.parameters, strict=True)],
            self.means,
            self.squares,
            [],
            [self.num_steps] * len(self.parameters),
            amsgrad=False,
            lr=self.learning_rate,
            beta1=BETA1,
            beta2=BETA2,
            weight_decay=0.0,
            eps=self.eps,
            maximize=False,
        )

    def state_dict(self) -> dict[str, Any]:
        """The state as torch.optim.Adam's: a checkpoint does not tell which of the two wrote it."""
        moments = zip(self.means, self.squares, strict=True)
        state = [{"step": self.num_steps, "exp_avg": mean, "exp_avg_sq": square} for mean, square in moments]
        group = {"lr": self.learning_rate.item(), "betas": (BETA1, BETA2), "eps": self.eps}
        group |= {"weight_decay": 0.0, "amsgrad": False, "params": list(range(len(state)))}
        return {"state": dict(enumerate(state)), "param_groups": [group]}

    def load_state_dict(self, state_dict: Mapping[str, Any]):
        """Takes over what `state_dict` or torch.optim.Adam's gave. Raises ValueError where it was of another
        number of parameters."""
        (group,) = state_dict["param_groups"]
        state = state_dict["state"]  # empty before torch's first step
        if len(group["params"]) == 1 and state:
            state = self._split(state[0])
        if len(state) not in (0, len(self.parameters)):
            raise ValueError(f"Adam's state is of {len(state)} parameters, not of {len(self.parameters)}")
        self.learning_rate.fill_(group["lr"])
        self.eps = group["eps"]
        for index, moments in state.items():
            self.num_steps.copy_(moments["step"])
            self.means[index].copy_(moments["exp_avg"])
            self.squares[index].copy_(moments["exp_avg_sq"])

    def _split(self, moments: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
        """The state of each parameter out of that of one tensor that held them all, as PPO's once did."""
        sizes = [parameter.numel() for parameter in self.parameters]
        means, squares = (moments[key].flatten().split(sizes) for key in ("exp_avg", "exp_avg_sq"))
        state = {}
        for index, parameter in enumerate(self.parameters):
            layout = parameter.shape, parameter.stride()
            state[index] = {"step": moments["step"]}
            state[index] |= {"exp_avg": means[index].as_strided(*layout)}
            state[index] |= {"exp_avg_sq": squares[index].as_strided(*layout)}
        return state


def as_laid_out(gradient: Tensor, parameter: Tensor) -> Tensor:
    """The gradient in the memory order of its parameter, which torch's kernels read without looking."""
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


def clip(gradients: Tensors, max_norm: float) -> tuple[Tensor, ...]:
    """The gradients, scaled down to a joint norm of `max_norm` if it is larger."""
    # g ← g min(1, c / |g|)
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
    return torch._foreach_mul(gradients, (max_norm / (norm + 1e-6)).clamp(max=1.0))


def to_device_at_once(arrays: Sequence[np.ndarray], device: torch.device) -> list[Tensor]:
    """Arrays as tensors on the device. On a GPU they are one copy out of pinned memory, for which nothing
    waits; on a CPU they stay where they are."""
    tensors = [torch.as_tensor(array) for array in arrays]
    if device.type == "cpu":
        return tensors
    return unpacked(packed(tensors, pinned=True).to(device, non_blocking=True), tensors)


def packed(tensors: list[Tensor], pinned: bool) -> Tensor:
    """The bytes of all tensors, in one."""
    whole = torch.empty(sum(map(space_of, tensors)), dtype=torch.uint8, pin_memory=pinned)
    torch._foreach_copy_(unpacked(whole, tensors), tensors)
    return whole


def unpacked(whole: Tensor, like: list[Tensor]) -> list[Tensor]:
    """The parts of `whole` that hold tensors like these."""
    parts = whole.split([space_of(tensor) for tensor in like])
    return [
        part[: tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        for part, tensor in zip(parts, like, strict=True)
    ]


def space_of(tensor: Tensor) -> int:
    """Bytes that it takes among others, each of which begins at a multiple of `ALIGNMENT`."""
    return -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT


def compile_update(update: Callable, args, device: torch.device, rows_vary: bool = False) -> Callable:
    """One graph of a whole update: losses, gradients, Adam and targets, without a line of Python in between.
    It computes what `update` does, with the same random numbers, and makes the same checkpoints.

    It is compiled at its first call. Where that fails one sentence says so, `args.compile` becomes False, and
    the run goes on in eager code.

    Args:
        update: takes tensors (or tuples of them, or constants, each of which has a graph of its own) and
            returns tensors; all else that changes from call to call has to be in tensors that stay the same.
        args: the run's.
        device: where the tensors are.
        rows_vary: whether the number of rows of its tensors changes from call to call.
    """
    return _graph(update, "Updates were", args, device, rows_vary)


def compile_policy(policy: Callable, args, device: torch.device) -> Callable:
    """On a GPU, one graph of what acting computes in the training environments. It reads the weights where
    they are, so that they are never old ones. Evaluations, in which ever fewer environments play, are eager.

    Args:
        policy: takes observations (N, *obs_shape) on the device, and perhaps whether to be deterministic.
        args, device: as for `compile_update`.
    """
    if device.type == "cpu":  # of eager code's time SAC and PPO take four fifths as a graph, TD3 six fifths
        return policy
    graph = _graph(policy, "Acting was", args, device)

    def run(obs: Tensor, *deterministic: bool):
        is_training = len(obs) == args.num_envs and not any(deterministic)
        return (graph if is_training else policy)(obs, *deterministic)

    return run


def _graph(function: Callable, what: str, args, device: torch.device, rows_vary: bool = False) -> Callable:
    if not hasattr(torch._dynamo.config, "trace_autograd_ops"):
        give_up(args, f"torch {torch.__version__} cannot trace gradients")
        return function
    # only here, since it takes a second and a half
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException
    from torch._dynamo.utils import counters
    from torch.utils._pytree import tree_map_only

    torch._dynamo.config.trace_autograd_ops = True
    options: dict[str, Any] = {"fallback_random": True}  # the random numbers of eager code
    if device.type == "cuda":
        # A CUDA graph, as by mode="reduce-overhead", and no kernel that is chosen by a stopwatch and rounds
        # differently in a resumed run
        options |= {"triton.cudagraphs": True, "deterministic": True}
    if device.type == "cpu":
        # torch's cache does not tell code for another processor's vectors, which then computes something else
        options |= {"cpp.simdlen": vector_bits()}
    if device.type != "cuda" and not rows_vary:
        # Kernels are called from C++, not from Python: 7 % of SAC's update, 3 % of TD3's, and a third of the
        # time to compile. Where the number of rows varies, as in PPO, it is 4 % slower.
        options |= {"cpp_wrapper": True}
    compiled: Callable = torch.compile(function, fullgraph=True, options=options)

    def run(*inputs, **constants):
        if not args.compile:
            return function(*inputs, **constants)
        if rows_vary:
            for tensor in inputs:
                torch._dynamo.maybe_mark_dynamic(tensor, 0)
        num_graphs = counters["stats"]["unique_graphs"]
        begun = time.perf_counter()
        try:
            outputs = compiled(*inputs, **constants)
        except TorchDynamoException as error:
            cause = getattr(error, "inner_exception", error)
            (reason, *_) = str(cause).strip().splitlines() or [""]
            give_up(args, f"{type(cause).__name__}: {reason}")
            return function(*inputs, **constants)
        except FailOnRecompileLimitHit:
            give_up(args, "too many graphs: a number that changes from call to call has to be a tensor")
            return function(*inputs, **constants)
        if counters["stats"]["unique_graphs"] > num_graphs:
            seconds = time.perf_counter() - begun
            announcements.say(f"{what} compiled in {seconds:.0f} s; torch keeps the result.")
        if device.type == "cuda":  # the next call writes where these are
            outputs = tree_map_only(Tensor, torch.clone, outputs)
        return outputs

    return run


def vector_bits() -> int:
    """The width of the processor's vectors, 0 where no compiler makes code for any."""
    from torch._inductor.cpu_vec_isa import pick_vec_isa
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        return pick_vec_isa().bit_width()
    except InvalidCxxCompiler:  # which is told when the first graph is compiled
        return 0


def give_up(args, reason: str):
    announcements.say(f"Warning: --compile failed, and nothing is compiled ({reason.rstrip('.')}).")
    args.compile = False
