"""rainbow.py trains for real, with all components, without each of them, and without any."""

import math

import numpy as np
import pytest
import torch
import torch._inductor.config
from gymnasium.spaces import Box, Discrete
from helpers import PIXELS, checkpoint, command_line, start, train

from cleanrl_cc import rainbow
from cleanrl_cc.checkpoints import load_replay
from cleanrl_cc.runs import read_csv

PROBLEMS = {
    "bins": {"total_timesteps": 400},
    "discrete": {"env_id": "CartPole-v1", "total_timesteps": 400},
    "pixels": PIXELS,
}
SETS = {
    "all": rainbow.COMPONENTS,
    "none": (),
    **{f"no {component}": tuple(c for c in rainbow.COMPONENTS if c != component) for component in rainbow.COMPONENTS},
}


def untrained(folder, **changes) -> dict:
    """The weights before the first update."""
    train("rainbow", folder, **changes | {"total_timesteps": 10})
    return checkpoint(folder)["agent"]


def check_training(folder, **changes):
    mean_return = train("rainbow", folder / "run", **changes)
    state = checkpoint(folder / "run")
    assert state["counters"]["num_updates"] > 20
    before = untrained(folder / "untrained", **changes)
    assert [name for name in before if torch.equal(before[name], state["agent"][name])] == []
    assert math.isfinite(mean_return) and mean_return == float(read_csv(folder / "run" / "evaluations.csv")[-1]["return_mean"])
    return state


@pytest.mark.parametrize("problem", PROBLEMS)
def test_it_learns_from_what_it_did(problem, tmp_path):
    state = check_training(tmp_path, **PROBLEMS[problem])
    rows = load_replay(tmp_path / "run" / state["replay"])
    assert len(np.unique(rows["priorities"])) > 10 and rows["max_priority"] == rows["priorities"].max() > 0


@pytest.mark.parametrize("components", SETS.values(), ids=SETS)
def test_it_learns_with_any_set_of_components(components, tmp_path):
    state = check_training(tmp_path, **PROBLEMS["bins"], components=components)
    names = state["agent"].keys()
    assert ("q_network.hidden.weight_sigma" in names) == ("noisy" in components)
    assert ("q_network.value.weight" in names) == ("dueling" in components)
    assert state["agent"]["q_network.out.bias"].numel() == 3 * (51 if "c51" in components else 1)


def test_the_command_line_does_the_same(tmp_path):
    changes = PIXELS | {"total_timesteps": 80}
    process = start("rainbow", command_line("rainbow", tmp_path / "command", **changes))
    _, stderr = process.communicate(timeout=200)
    assert process.returncode == 0, stderr
    train("rainbow", tmp_path / "call", **changes)
    a, b = (checkpoint(tmp_path / name)["agent"] for name in ("command", "call"))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("components, expected", [(("noisy",), 0), ((), 0.2)])
def test_noise_replaces_random_actions(components, expected, tmp_path):
    fields = {"learning_starts": 900, "epsilon_steps": 50, "epsilon_end": 0.2, "updates_per_step": 0.0}
    train("rainbow", tmp_path / "run", total_timesteps=1000, components=components, **fields)
    (row,) = read_csv(tmp_path / "run" / "progress.csv")
    assert float(row["charts/epsilon"]) == expected


def agent_for(action_space, **fields) -> rainbow.Agent:
    torch.manual_seed(0)
    return rainbow.Agent(rainbow.Args(hidden_dim=16, precision="fp32", **fields), Box(-1, 1, (3,)), action_space, torch.device("cpu"))


def test_noise_is_drawn_at_each_step_but_not_where_the_policy_is_deterministic():
    agent, obs = agent_for(Box(-1, 1, (2,)), bins=9), np.ones((1, 3), np.float32)
    noisy = np.stack([agent.act(obs, deterministic=False) for _ in range(100)])
    assert len(np.unique(noisy[:, 0], axis=0)) > 5
    mean = agent.q_values(obs)
    assert all(np.array_equal(agent.q_values(obs), mean) for _ in range(5))
    assert agent.q_network.training, "an update after an evaluation must have its noise"
    with torch.no_grad():
        for layer in (agent.q_network.hidden, agent.q_network.out, agent.q_network.value):
            layer.weight_sigma.zero_(), layer.bias_sigma.zero_()
    assert np.array_equal(agent.q_values(obs, noisy=True), mean)


@pytest.mark.parametrize("action_space", [Box(-1, 1, (2,)), Discrete(4)])
@pytest.mark.parametrize("components", SETS.values(), ids=SETS)
def test_values_are_in_units_of_the_environment(components, action_space):
    agent = agent_for(action_space, components=components, reward_scale=0.1)
    obs = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    assert agent.value(obs) == pytest.approx(10 * agent.q_values(obs).max(axis=2).mean(axis=1))
    assert action_space.contains(agent.act(obs, deterministic=True)[0])


def test_bf16_trains_close_to_fp32(tmp_path):
    changes = PIXELS | {"total_timesteps": 60, "updates_per_step": 0.2}
    for precision in ("fp32", "bf16"):
        train("rainbow", tmp_path / precision, **changes, precision=precision)
    fp32, bf16 = (checkpoint(tmp_path / precision)["agent"] for precision in ("fp32", "bf16"))
    assert all(tensor.dtype == torch.float32 for tensor in bf16.values())
    assert any(not torch.equal(fp32[name], bf16[name]) for name in fp32)
    for name in fp32:  # Adam moves a weight by at most the learning rate per update, whatever the gradient's size
        torch.testing.assert_close(bf16[name], fp32[name], atol=2 * 2 * 1e-4, rtol=0)


def test_compiled_updates_equal_eager_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(torch._inductor.config, "fallback_random", True)  # the noise of eager code
    monkeypatch.setattr(torch._inductor.config, "compile_threads", 1)
    for compiled in (False, True):
        train("rainbow", tmp_path / str(compiled), total_timesteps=80, compile=compiled)
    eager, compiled = (checkpoint(tmp_path / name) for name in ("False", "True"))
    assert compiled["counters"]["num_updates"] == 3
    assert compiled["agent"].keys() == eager["agent"].keys()
    for name, tensor in eager["agent"].items():
        torch.testing.assert_close(compiled["agent"][name], tensor, atol=1e-5, rtol=1e-4)
