"""What only a GPU can show, all of it: `pytest -m cuda`. Without one it is skipped, and counted."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from helpers import (
    PIXELS,
    SCRIPTS,
    TINY,
    assert_same_training,
    checkpoint,
    having,
    load_script,
    resume,
    train,
)
from torch.utils._pytree import tree_map_only

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU"),
]
CUDA = torch.device("cuda")
OBS_SPACES = {"state": Box(-9, 9, (5,)), "pixels": Box(0, 255, (4, 84, 84), np.uint8)}
ACTION_SPACE = Box(-1, 1, (2,))
RUNS = {"state": {}, "pixels": PIXELS}
BATCH_SIZE = 16

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


def make_agent(script: str, problem: str, device: torch.device, **changes):
    """Always with the same weights."""
    module = load_script(script)
    fields = {name: value for name, value in TINY.items() if script in having(name)}
    torch.manual_seed(1)
    agent = module.Agent(module.Args(**fields | changes), OBS_SPACES[problem], ACTION_SPACE, device)
    for optimizer in agent.optimizers.values():
        optimizer.eps = 1e-4  # rounding errors are no gradients
    return agent


def make_buffer(script: str, problem: str, device: torch.device):
    """A replay buffer of random rows, without an episode's end."""
    module = load_script(script)
    fields = {name: value for name, value in TINY.items() if script in having(name)}
    buffer = module.ReplayBuffer(module.Args(**fields), OBS_SPACES[problem], ACTION_SPACE, device)
    rng = np.random.default_rng(1)
    never = np.zeros(1, bool)
    for _ in range(100):
        obs = rng.integers(0, 256, (1, 4, 84, 84), np.uint8)
        if problem == "state":
            obs = rng.normal(size=(1, 5)).astype(np.float32)
        actions = rng.uniform(-1, 1, (1, 2)).astype(np.float32)
        if script in ("dqn_atari_style", "rainbow"):
            actions = rng.integers(0, 3, (1, 2))
        buffer.add(obs, actions, rng.normal(size=1), never, never, final=never)
    return buffer


def make_minibatch(problem: str, seed: int) -> tuple[torch.Tensor, ...]:
    """What PPO learns from."""
    generator = torch.Generator().manual_seed(seed)
    obs = torch.randn(BATCH_SIZE, 5, generator=generator)
    if problem == "pixels":
        obs = torch.randint(0, 256, (BATCH_SIZE, 4, 84, 84), generator=generator, dtype=torch.uint8)
    actions = 2 * torch.rand(BATCH_SIZE, 2, generator=generator) - 1
    columns = torch.randn(4, BATCH_SIZE, generator=generator)
    return obs, actions, columns[0] / 10 - 2, *columns[1:]


def update(agent, script: str, problem: str, buffer, seed: int):
    """One update, on the same rows whatever the device."""
    if script == "ppo_continuous":
        agent.update_minibatch(*(column.to(agent.device) for column in make_minibatch(problem, seed)))
    else:
        agent.update(buffer.sample(BATCH_SIZE, np.random.default_rng(seed)))


def learn(script: str, problem: str, device: torch.device, num_updates: int, **changes):
    agent = make_agent(script, problem, device, **changes)
    buffer = None if script == "ppo_continuous" else make_buffer(script, problem, device)
    for seed in range(num_updates):
        torch.manual_seed(seed)
        update(agent, script, problem, buffer, seed)
    return agent


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
def test_a_cuda_graph_learns_what_eager_code_does(script, problem):
    from torch._dynamo.utils import counters

    counters.clear()
    graph = learn(script, problem, CUDA, num_updates=50, compile=True)
    assert not graph.args.compile or counters["stats"]["unique_graphs"] == (2 if script == "td3" else 1)
    assert graph.args.compile, "it did not compile"
    assert not counters["graph_break"]
    assert not counters["inductor"]["cudagraph_skips"], "a graph of kernels, not a CUDA graph"
    assert_close(graph, learn(script, problem, CUDA, num_updates=50), atol=1e-4)


@each_script
def test_acting_after_a_cuda_graph_has_the_new_weights(script):
    agent = learn(script, "state", CUDA, num_updates=20, compile=True)
    fresh = make_agent(script, "state", CUDA)
    obs = np.random.default_rng(1).normal(size=(100, 5)).astype(np.float32)
    before = fresh.act(obs, deterministic=True)
    fresh.load_state_dict(agent.state_dict())
    after = agent.act(obs, deterministic=True)
    np.testing.assert_array_equal(after, fresh.act(obs, deterministic=True))
    assert (after != before).any()


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
    buffer = None if script == "ppo_continuous" else make_buffer(script, problem, CUDA)
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
    buffer = None if script == "ppo_continuous" else make_buffer(script, problem, CUDA)
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
