"""What an update is made of: Adam as torch's, and one graph that computes what eager code does."""

import re
import stat
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from agents import NUM_ENVS, assert_explores_alike, explore, make_agent, make_obs
from helpers import (
    PIXELS,
    SCRIPTS,
    assert_same,
    assert_same_training,
    checkpoint,
    having,
    load_script,
    resume,
    train,
)
from torch import nn

from cleanrl_cc.common.updates import (
    ALIGNMENT,
    Adam,
    clip,
    compile_policy,
    compile_update,
    packed,
    to_device_at_once,
    unpacked,
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("short_laps")]

PROBLEMS = {"state": {}, "pixels": PIXELS}
# At least 50 updates. Off-policy they come in the last three steps, so that all learn from the same steps: an
# environment answers a rounding error of an action with another picture.
MANY_UPDATES = {"total_timesteps": 120, "learning_starts": 117, "updates_per_step": 17.0}
MANY_ROLLOUTS = {"total_timesteps": 240}


@pytest.fixture
def counted():
    """What torch's compiler counts, from 0 on; one process compiles."""
    from torch._dynamo.utils import counters

    torch.compiler.reset()
    counters.clear()
    with torch._inductor.config.patch(compile_threads=1):
        yield counters


@pytest.fixture
def plain_code():
    """A graph without vector instructions and optimisation: a third of g++'s time. A test below has both."""
    from torch._inductor.cpu_vec_isa import valid_vec_isa_list

    valid_vec_isa_list.cache_clear()  # it remembers what the configuration was at its first call
    with torch._inductor.config.patch({"cpp.vec_isa_ok": False, "aot_inductor.debug_compile": True}):
        yield
    valid_vec_isa_list.cache_clear()


def parameters() -> list[torch.Tensor]:
    """Of a convolution in channels_last, a linear layer and a temperature."""
    torch.manual_seed(1)
    convolution = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    linear = torch.nn.Linear(5, 2)
    return [*convolution.parameters(), *linear.parameters(), torch.nn.Parameter(torch.zeros(()))]


def gradients(like: list[torch.Tensor], seed: int) -> list[torch.Tensor]:
    """Random ones, each in the memory order that its shape says, whatever its parameter's is."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(tensor.shape, generator=generator) for tensor in like]


# --- Adam ---


@pytest.mark.parametrize("eps", [1e-8, 1e-3])
def test_steps_equal_those_of_torch_bit_for_bit(eps):
    ours = parameters()
    theirs = parameters()
    adam = Adam(ours, 1e-3, eps)
    peer = torch.optim.Adam(theirs, 1e-3, eps=eps, fused=True)
    for seed in range(20):
        adam.learning_rate.fill_(1e-3 * 0.9**seed)
        peer.param_groups[0]["lr"] = 1e-3 * 0.9**seed
        adam.step(gradients(ours, seed))
        for parameter, gradient in zip(theirs, gradients(theirs, seed), strict=True):
            parameter.grad = torch.empty_like(parameter).copy_(gradient)
        peer.step()
    assert_same([*map(torch.Tensor.detach, ours)], [*map(torch.Tensor.detach, theirs)], "parameters")


def test_the_formula_of_a_graph_is_that_of_the_kernel(monkeypatch):
    ours = parameters()
    theirs = parameters()
    graph = Adam(ours, 1e-2)
    kernel = Adam(theirs, 1e-2)
    for seed in range(20):
        kernel.step(gradients(theirs, seed))
        with monkeypatch.context() as patch:
            patch.setattr(torch.compiler, "is_compiling", lambda: True)
            graph.step(gradients(ours, seed))
    for parameter, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(parameter, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("num_steps", [0, 3])
def test_the_state_is_that_of_torch_in_both_directions(num_steps):
    ours = parameters()
    theirs = parameters()
    adam = Adam(ours, 1e-3, eps=1e-4)
    peer = torch.optim.Adam(theirs, 1e-3, eps=1e-4, fused=True)
    for seed in range(num_steps):
        adam.step(gradients(ours, seed))
        for parameter, gradient in zip(theirs, gradients(theirs, seed), strict=True):
            parameter.grad = torch.empty_like(parameter).copy_(gradient)
        peer.step()
    from_peer = Adam(theirs, 1.0)
    from_peer.load_state_dict(peer.state_dict())
    assert_same(from_peer.state_dict(), adam.state_dict(), "state")
    to_peer = torch.optim.Adam(ours, 1.0, fused=True)
    to_peer.load_state_dict(adam.state_dict())
    group = to_peer.param_groups[0]
    assert (group["lr"], group["eps"]) == (1e-3, 1e-4)
    for parameter, mean in zip(ours, adam.means, strict=True):
        assert torch.equal(to_peer.state[parameter]["exp_avg"], mean)


def test_the_state_of_one_tensor_of_all_parameters_is_taken_apart():
    ours = parameters()
    adam = Adam(ours, 1e-3)
    adam.step(gradients(ours, 1))
    state = adam.state_dict()
    whole = {"step": adam.num_steps}
    for key in ("exp_avg", "exp_avg_sq"):  # in the order of memory
        whole[key] = torch.cat(
            [each[key].as_strided((each[key].numel(),), (1,)) for each in state["state"].values()]
        )
    other = Adam(parameters(), 1.0)
    other.load_state_dict({"state": {0: whole}, "param_groups": [state["param_groups"][0] | {"params": [0]}]})
    assert_same(other.state_dict(), state, "state")


def test_a_rollout_is_one_block_of_bytes_and_on_a_cpu_is_not_copied():
    rng = np.random.default_rng(1)
    arrays = [rng.integers(0, 256, (3, 5, 7), np.uint8), rng.normal(size=(6, 3)).astype(np.float32)]
    arrays += [rng.normal(size=5), rng.integers(0, 9, 3), rng.normal(size=(4, 6)).astype(np.float32).T]
    for array, tensor in zip(arrays, to_device_at_once(arrays, torch.device("cpu")), strict=True):
        assert np.shares_memory(array, tensor.numpy())
    tensors = [torch.as_tensor(array) for array in arrays]
    whole = packed(tensors, pinned=False)
    for array, tensor in zip(arrays, unpacked(whole, tensors), strict=True):
        assert_same(tensor.numpy(), array, "array")
        assert tensor.untyped_storage().data_ptr() == whole.data_ptr() and tensor.data_ptr() % ALIGNMENT == 0


def test_the_state_of_other_parameters_is_refused():
    state = Adam(parameters(), 1e-3).state_dict()
    with pytest.raises(ValueError, match="5 parameters, not of 2"):
        Adam(parameters()[:2], 1e-3).load_state_dict(state)


@pytest.mark.parametrize("max_norm", [0.5, 1e3])
def test_gradients_are_clipped_as_by_torch(max_norm):
    ours = gradients(parameters(), 1)
    theirs = parameters()
    for parameter, gradient in zip(theirs, ours, strict=True):
        parameter.grad = gradient.clone()
    nn.utils.clip_grad_norm_(theirs, max_norm)
    assert_same(list(clip(ours, max_norm)), [parameter.grad for parameter in theirs], "gradients")


# --- one graph ---


def larger_epsilon(script: str, monkeypatch):
    """Adam moves a weight by the learning rate even where its gradient is a rounding error, in which any two
    orders of summing differ; a larger epsilon ends that. Those of PPO and Rainbow are larger already."""
    monkeypatch.setattr(load_script(script), "Adam", partial(Adam, eps=1e-5))


@pytest.mark.slow
@pytest.mark.usefixtures("plain_code")
@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_one_graph_learns_what_eager_code_does(script, problem, counted, tmp_path, monkeypatch, capsys):
    larger_epsilon(script, monkeypatch)
    changes = PROBLEMS[problem] | (MANY_ROLLOUTS if script == "ppo_continuous" else MANY_UPDATES)
    if script in having("learning_rate_schedule"):
        changes = changes | {"learning_rate_schedule": "linear"}
    num_graphs = 1
    if (script, problem) == ("td3", "state"):
        changes = changes | {"policy_frequency": 2}
        num_graphs = 2  # with the actor's step and without
    train(script, tmp_path / "eager", **changes)
    assert not counted
    train(script, tmp_path / "graph", **changes, compile=True)
    assert counted["stats"]["unique_graphs"] == num_graphs, "compiled again"
    assert not counted["graph_break"]
    assert capsys.readouterr().err.count("Updates were compiled in ") == num_graphs

    eager = checkpoint(tmp_path / "eager")
    graph = checkpoint(tmp_path / "graph")
    assert graph["num_updates"] == eager["num_updates"] >= 50
    assert graph["args"] == eager["args"] | {"compile": True, "run_name": "graph"}
    assert graph["agent"].keys() == eager["agent"].keys()
    for name, weights in eager["agent"].items():
        torch.testing.assert_close(
            graph["agent"][name], weights, atol=1e-5, rtol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
    assert_same_shape(graph["optimizers"], eager["optimizers"])


@pytest.mark.slow
@pytest.mark.usefixtures("plain_code", "counted")
def test_a_graph_computes_adams_corrections_once_and_not_in_each_loop():
    from torch._inductor.utils import run_and_get_code

    adam = Adam([torch.ones(size) for size in (3, 40, 500)], learning_rate=1e-3)  # a loop for each

    def update(*gradients):
        adam.step(clip(gradients, max_norm=10))
        return adam.num_steps.clone()

    args = SimpleNamespace(compile=True)
    graph = compile_update(update, args, torch.device("cpu"))
    _, code = run_and_get_code(graph, *gradients(adam.parameters, seed=1))
    assert args.compile and adam.num_steps == 1
    assert len(re.findall(r"std::(?:exp|pow)\(", "".join(code))) == 2  # β₁ᵗ and β₂ᵗ


@pytest.mark.slow
@pytest.mark.usefixtures("plain_code")
@pytest.mark.parametrize(
    "script, problem", [*((script, "state") for script in SCRIPTS), ("sac_drq", "pixels")]
)
def test_a_graph_of_acting_never_has_old_weights(script, problem, counted, monkeypatch):
    compiled = torch.compile
    if script != "sac_drq":  # whose graphs become code; the others are only traced, which takes no time

        def traced(function, fullgraph, options):
            return compiled(function, fullgraph=fullgraph, backend="aot_eager")

        monkeypatch.setattr(torch, "compile", traced)
    cpu = torch.device("cpu")
    graph, eager = (make_agent(script, problem, cpu, learning_rate=0.01) for _ in range(2))
    policy = graph.policy
    args = SimpleNamespace(compile=True, num_envs=NUM_ENVS)
    assert compile_policy(policy, args, cpu) == policy, "acting is compiled on a CPU"
    graph.policy = compile_policy(policy, args, torch.device("mps"))  # any other; its tensors are on the CPU
    assert_explores_alike(graph, eager, script, problem, atol=1e-5)
    assert args.compile and counted["stats"]["unique_graphs"] == 1 and not counted["graph_break"]

    alone = make_obs(problem, 1, np.random.default_rng(2))  # as in an evaluation, which is eager
    assert_same(explore(graph, script, alone), explore(eager, script, alone), "actions")
    assert_same(graph.act(alone, deterministic=True), eager.act(alone, deterministic=True), "actions")
    assert counted["stats"]["unique_graphs"] == 1


def assert_same_shape(a, b):
    """Equal keys, numbers of steps and memory orders."""
    assert a.keys() == b.keys()
    for name in a:
        assert a[name]["param_groups"] == b[name]["param_groups"]
        for ours, theirs in zip(a[name]["state"].values(), b[name]["state"].values(), strict=True):
            assert ours["step"] == theirs["step"]
            assert ours["exp_avg"].stride() == theirs["exp_avg"].stride()


@pytest.mark.slow
def test_a_compiled_run_goes_on_bit_for_bit_and_moves_to_eager_code_and_back(
    counted, tmp_path, monkeypatch, capsys
):
    larger_epsilon("sac_drq", monkeypatch)
    train("sac_drq", tmp_path / "run", total_timesteps=100, compile=True)
    train("sac_drq", tmp_path / "direct", total_timesteps=140, compile=True)
    resume("sac_drq", tmp_path / "run", total_timesteps=140)
    assert "bit for bit" not in capsys.readouterr().err
    assert_same_training(tmp_path / "run", tmp_path / "direct")
    for compiled in (False, True):
        steps = 220 if compiled else 180
        resume("sac_drq", tmp_path / "run", compile=compiled, total_timesteps=steps)
        assert f"--compile {not compiled}: it goes on, but is no longer" in capsys.readouterr().err
        assert checkpoint(tmp_path / "run")["args"]["compile"] == compiled
    train("sac_drq", tmp_path / "eager", total_timesteps=220)
    ours = checkpoint(tmp_path / "run")
    expected = checkpoint(tmp_path / "eager")
    assert ours["num_updates"] == expected["num_updates"]
    for name, weights in expected["agent"].items():
        torch.testing.assert_close(ours["agent"][name], weights, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_a_cache_that_another_processor_filled_changes_nothing(counted, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    larger_epsilon("td3", monkeypatch)
    train("td3", tmp_path / "eager", total_timesteps=100)
    expected = checkpoint(tmp_path / "eager")["agent"]
    for capability in ("avx2", "default"):  # the latter has no vectors
        monkeypatch.setenv("ATEN_CPU_CAPABILITY", capability)
        torch.compiler.reset()
        with torch._inductor.config.patch({"aot_inductor.debug_compile": True}):
            train("td3", tmp_path / capability, total_timesteps=100, compile=True)
        saved = checkpoint(tmp_path / capability)
        assert saved["args"]["compile"], capsys.readouterr().err
        for name, weights in expected.items():
            torch.testing.assert_close(saved["agent"][name], weights, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_a_compiler_that_fails_leaves_eager_code_and_one_sentence(counted, tmp_path, monkeypatch, capsys):
    compiler = tmp_path / "broken"
    compiler.write_text("#!/bin/sh\nexit 1\n")
    compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CXX", str(compiler))
    with torch._inductor.config.patch({"cpp.cxx": (str(compiler),), "force_disable_caches": True}):
        train("td3", tmp_path / "run", total_timesteps=80, compile=True)
    lines = [line for line in capsys.readouterr().err.splitlines() if "--compile" in line]
    assert len(lines) == 1 and "No working C++ compiler" in lines[0] and lines[0].endswith(".")
    train("td3", tmp_path / "eager", total_timesteps=80)
    assert_same_training(tmp_path / "run", tmp_path / "eager")
    assert not checkpoint(tmp_path / "run")["args"]["compile"]


@pytest.mark.usefixtures("plain_code")
def test_an_update_that_needs_ever_more_graphs_goes_on_in_eager_code(counted, capsys):
    class Counting(nn.Module):
        num_updates = 0

        def update(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.num_updates

    agent = Counting()
    args = SimpleNamespace(compile=True)
    update = compile_update(agent.update, args, torch.device("cpu"))
    with torch._dynamo.config.patch(recompile_limit=1):
        for number in range(3):
            agent.num_updates = number
            assert update(torch.zeros(1)).item() == number
    assert not args.compile
    assert "--compile failed, and nothing is compiled (too many graphs: " in capsys.readouterr().err
