"""Agents and buffers outside of a run, always with the same weights and rows, on any device."""

import numpy as np
import torch
from gymnasium.spaces import Box
from helpers import TINY, having, load_script

OBS_SPACES = {"state": Box(-9, 9, (5,)), "pixels": Box(0, 255, (4, 84, 84), np.uint8)}
ACTION_SPACE = Box(-1, 1, (2,))
BATCH_SIZE = 16
NUM_ENVS = 3  # that act


def make_agent(script: str, problem: str, device: torch.device, seed: int = 1, **changes):
    module = load_script(script)
    fields = {name: value for name, value in TINY.items() if script in having(name)}
    fields |= {"num_envs": NUM_ENVS} | changes
    torch.manual_seed(seed)
    agent = module.Agent(module.Args(**fields), OBS_SPACES[problem], ACTION_SPACE, device)
    for optimizer in agent.optimizers.values():
        optimizer.eps = 1e-4  # rounding errors are no gradients
    return agent


def make_obs(problem: str, num_rows: int, rng: np.random.Generator) -> np.ndarray:
    if problem == "pixels":
        return rng.integers(0, 256, (num_rows, 4, 84, 84), np.uint8)
    return rng.normal(size=(num_rows, 5)).astype(np.float32)


def make_buffer(script: str, problem: str, device: torch.device):
    """A replay buffer of random rows, without an episode's end; PPO has none."""
    if script == "ppo_continuous":
        return None
    module = load_script(script)
    fields = {name: value for name, value in TINY.items() if script in having(name)}
    buffer = module.ReplayBuffer(module.Args(**fields), OBS_SPACES[problem], ACTION_SPACE, device)
    rng = np.random.default_rng(1)
    never = np.zeros(1, bool)
    for _ in range(100):
        actions = rng.uniform(-1, 1, (1, 2)).astype(np.float32)
        if script in ("dqn_atari_style", "rainbow"):
            actions = rng.integers(0, 3, (1, 2))
        buffer.add(make_obs(problem, 1, rng), actions, rng.normal(size=1), never, never, final=never)
    return buffer


def make_minibatch(problem: str, seed: int) -> list[torch.Tensor]:
    """What PPO learns from."""
    rng = np.random.default_rng(seed)
    columns = rng.normal(size=(4, BATCH_SIZE))
    columns[0] = columns[0] / 10 - 2  # log-probabilities
    rows = [make_obs(problem, BATCH_SIZE, rng), rng.uniform(-1, 1, (BATCH_SIZE, 2)), *columns]
    return [torch.as_tensor(row, dtype=None if row.dtype == np.uint8 else torch.float32) for row in rows]


def update(agent, script: str, problem: str, buffer, seed: int):
    """One update, on the same rows whatever the device."""
    if script == "ppo_continuous":
        agent.update_minibatch(*(column.to(agent.device) for column in make_minibatch(problem, seed)))
    else:
        agent.update(buffer.sample(BATCH_SIZE, np.random.default_rng(seed)))


def learn(script: str, problem: str, device: torch.device, num_updates: int, **changes):
    agent = make_agent(script, problem, device, **changes)
    buffer = make_buffer(script, problem, device)
    for seed in range(num_updates):
        torch.manual_seed(seed)
        update(agent, script, problem, buffer, seed)
    return agent


def explore(agent, script: str, obs: np.ndarray) -> np.ndarray:
    """What the training asks an agent for, in an array."""
    torch.manual_seed(1)
    if script == "ppo_continuous":
        return np.concatenate([part.reshape(len(obs), -1) for part in agent.sample(obs)], axis=1)
    if script == "rainbow":
        return agent.q_values(obs, noisy=True)
    return agent.q_values(obs) if script == "dqn_atari_style" else agent.act(obs)


def assert_explores_alike(graph, eager, script: str, problem: str, atol: float):
    """A graph of acting has the weights and the noise of the moment: the first ones, those after two updates,
    those that were loaded, and a larger noise."""
    buffer = make_buffer(script, problem, eager.device)
    others = make_agent(script, problem, eager.device, seed=2).state_dict()
    obs = make_obs(problem, NUM_ENVS, np.random.default_rng(1))

    def change(agent, what: str):
        if what == "update":
            for seed in range(2):  # TD3's actor is updated at the second
                torch.manual_seed(seed)
                update(agent, script, problem, buffer, seed)
        elif what == "load":
            agent.load_state_dict(others)
        elif what == "noise":
            agent.exploration_noise.fill_(0.7)

    before = np.inf
    for what in ("nothing", "update", "load", *["noise"] * hasattr(eager, "exploration_noise")):
        change(graph, what)
        change(eager, what)
        expected = explore(eager, script, obs)
        for _ in range(4):  # a CUDA graph is at first a call, then recorded, then replayed
            np.testing.assert_allclose(explore(graph, script, obs), expected, rtol=0, atol=atol)
        assert np.abs(expected - before).max() > 10 * atol, f"{what} changed nothing"
        before = expected
