"""What only a GPU can show, all of it: `pytest -m cuda`. Without one it is skipped, and counted."""

import numpy as np
import pytest
import torch
from agents import (
    BATCH_SIZE,
    OBS_SPACES,
    assert_explores_alike,
    learn,
    make_agent,
    make_buffer,
    make_minibatch,
    update,
)
from helpers import PIXELS, SCRIPTS, assert_same, assert_same_training, checkpoint, having, resume, train
from torch.utils._pytree import tree_map_only

from cleanrl_cc.common.updates import to_device_at_once

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU"),
]
CUDA = torch.device("cuda")
RUNS = {"state": {}, "pixels": PIXELS}

each_problem = pytest.mark.parametrize("problem", OBS_SPACES)
each_script = pytest.mark.parametrize("script", SCRIPTS)


@pytest.fixture(autouse=True)
def exact():
    """fp32 is fp32, not TF32, and one process compiles."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    torch.compiler.reset()
    with torch._inductor.config.patch(compile_threads=1):
        yield
    torch.set_float32_matmul_precision(before)
    torch.backends.cudnn.allow_tf32 = True


@pytest.fixture
def counted():
    """What torch's compiler counts, from 0 on."""
    from torch._dynamo.utils import counters

    counters.clear()
    return counters


def assert_one_cuda_graph(args, counted: dict, num_graphs: int = 1):
    """Each graph was compiled once, and is launched as a whole."""
    assert args.compile, "it did not compile"
    assert counted["stats"]["unique_graphs"] == num_graphs, "compiled again"
    assert not counted["graph_break"]
    assert not counted["inductor"]["cudagraph_skips"], "a graph of kernels, not a CUDA graph"
    assert not counted["inductor"]["cudagraph_partitions"], "a CUDA graph in pieces"


def assert_close(agent, other, atol: float):
    ours, expected = (
        tree_map_only(torch.Tensor, torch.Tensor.cpu, each.state_dict()) for each in (agent, other)
    )
    for name, weights in expected.items():
        torch.testing.assert_close(
            ours[name], weights, atol=atol, rtol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


@each_script
@each_problem
def test_an_update_equals_that_of_the_cpu(script, problem, monkeypatch):
    randn_like, randint = torch.randn_like, torch.randint
    # both devices draw the CPU's noise
    monkeypatch.setattr(torch, "randn_like", lambda like: randn_like(like.cpu()).to(like.device))
    monkeypatch.setattr(
        torch, "randint", lambda *args, device="cpu", **more: randint(*args, **more).to(device)
    )
    agents = [learn(script, problem, device, num_updates=10) for device in (CUDA, torch.device("cpu"))]
    assert_close(*agents, atol=1e-5)


@each_script
@each_problem
def test_a_cuda_graph_learns_what_eager_code_does(script, problem, counted):
    graph = learn(script, problem, CUDA, num_updates=50, compile=True)
    assert_one_cuda_graph(
        graph.args, counted, 2 if script == "td3" else 1
    )  # with the actor's step and without
    assert_close(graph, learn(script, problem, CUDA, num_updates=50), atol=1e-4)


@each_script
@each_problem
def test_a_cuda_graph_acts_as_eager_code_does_with_the_new_weights(script, problem, counted):
    graph = make_agent(script, problem, CUDA, compile=True, learning_rate=0.01)
    eager = make_agent(script, problem, CUDA, learning_rate=0.01)
    assert_explores_alike(graph, eager, script, problem, atol=1e-4)
    assert_one_cuda_graph(graph.args, counted, 3 if script == "td3" else 2)  # of updates, and of acting


def test_a_rollout_reaches_the_card_in_one_copy():
    rng = np.random.default_rng(1)
    arrays = [
        rng.integers(0, 256, (40, 4, 84, 84), np.uint8),
        rng.normal(size=(40, 3)),
        rng.integers(0, 9, 5),
    ]
    tensors = to_device_at_once(arrays, CUDA)
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors}) == 1
    for array, tensor in zip(arrays, tensors, strict=True):
        assert tensor.is_cuda
        assert_same(tensor.cpu().numpy(), array, "array")


@each_script
@each_problem
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "graph"])
def test_a_resumed_run_is_the_same_bit_for_bit(script, problem, compiled, tmp_path):
    changes = RUNS[problem] | {"device": "cuda", "compile": compiled}
    if script in having("learning_rate_schedule"):
        changes |= {"learning_rate_schedule": "constant"}  # others depend on the last step
    train(script, tmp_path / "run", **changes | {"total_timesteps": 100})
    resume(script, tmp_path / "run", total_timesteps=150)
    train(script, tmp_path / "direct", **changes | {"total_timesteps": 150})
    assert checkpoint(tmp_path / "run")["args"]["compile"] == compiled
    assert_same_training(tmp_path / "run", tmp_path / "direct")


@each_script
@each_problem
def test_bf16_stays_close_to_fp32(script, problem):
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        pytest.skip("this GPU has no bf16")
    rounded = learn(script, problem, CUDA, num_updates=10, precision="bf16")
    assert all(parameter.dtype == torch.float32 for parameter in rounded.parameters())
    most = 2 * 10 * rounded.args.learning_rate  # Adam moves a weight by at most the rate, either way
    assert_close(rounded, learn(script, problem, CUDA, num_updates=10), atol=most)


@each_script
@each_problem
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "graph"])
def test_updates_take_no_more_memory_as_they_go_on(script, problem, compiled):
    agent = make_agent(script, problem, CUDA, compile=compiled)
    buffer = make_buffer(script, problem, CUDA)
    used = []
    for seed in range(60):
        update(agent, script, problem, buffer, seed)
        used.append(torch.cuda.memory_allocated())
    assert max(used[20:]) == max(used[40:])


@pytest.mark.parametrize("script", having("buffer_size"))
@each_problem
def test_the_replay_buffer_lies_on_the_card(script, problem):
    buffer = make_buffer(script, problem, CUDA)
    assert buffer.frames.is_cuda and buffer.actions.is_cuda
    batch = buffer.sample(BATCH_SIZE, np.random.default_rng(1))
    assert batch.obs.is_cuda and batch.rewards.is_cuda


@each_script
@each_problem
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "graph"])
def test_no_update_waits_for_the_card(script, problem, compiled):
    """Sampling and learning; Rainbow's priorities, which `train` brings back to the CPU, come after it."""
    agent = make_agent(script, problem, CUDA, compile=compiled)
    buffer = make_buffer(script, problem, CUDA)
    minibatch = [column.to(CUDA) for column in make_minibatch(problem, seed=1)]
    rng = np.random.default_rng(1)

    def learn_once():
        if script == "ppo_continuous":
            agent.update_minibatch(*minibatch)
        else:
            agent.update(buffer.sample(BATCH_SIZE, rng))

    for _ in range(8):  # those that compile and record
        learn_once()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(8):
            learn_once()
    finally:
        torch.cuda.set_sync_debug_mode("default")
