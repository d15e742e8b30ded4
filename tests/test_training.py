"""Each script trains for real, from vectors and from pixels, through `train` and through the command line."""

import math

import numpy as np
import pytest
import torch
import torch._inductor.config
from agents import make_agent, make_buffer
from gymnasium.spaces import Box
from helpers import (
    PIXELS,
    ROOT,
    SCRIPTS,
    Fork,
    begin,
    checkpoint,
    command_line,
    flags,
    having,
    load_script,
    parse,
    replay,
    resume,
    start,
    train,
)

from cleanrl_cc.common.envs import make_env
from cleanrl_cc.common.tables import read_csv

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("short_laps")]

CPU = torch.device("cpu")
VECTOR = {"total_timesteps": 1100}
PROBLEMS = {"vector": VECTOR, "pixels": PIXELS}
MORE = {
    "ddpg": {"batch norm and OU noise": VECTOR | {"batch_norm": True, "exploration_noise_type": "ou"}},
    "dqn_atari_style": {
        "discrete": {"env_id": "CartPole-v1", "total_timesteps": 400},
        "two axes": PIXELS | {"action_set": "auto"},
    },
    "ppo_continuous": {"beta": VECTOR | {"action_distribution": "beta"}},
    "rainbow": {
        "discrete": {"env_id": "CartPole-v1", "total_timesteps": 400},
        "two axes": PIXELS | {"action_set": "auto"},
        "one component": VECTOR | {"components": ("double",)},
    },
}
CASES = [
    pytest.param(script, changes, id=f"{problem}-{script}")
    for script in SCRIPTS
    for problem, changes in (PROBLEMS | MORE.get(script, {})).items()
]
DQN_LOSSES = {"qf_loss", "q"}
LOSSES = {
    "sac_drq": {"qf_loss", "q1", "actor_loss", "alpha_loss", "alpha", "entropy"},
    "td3": {"qf_loss", "q1", "actor_loss"},
    "ddpg": {"qf_loss", "q", "actor_loss"},
    "ppo_continuous": {
        "policy_loss",
        "value_loss",
        "entropy",
        "approx_kl",
        "clip_fraction",
        "explained_variance",
    },
    "dqn_atari_style": DQN_LOSSES,
    "rainbow": DQN_LOSSES | {"edge_mass"},
}


def untrained(script, folder, **changes) -> dict:
    """The weights before the first update."""
    train(script, folder, **changes | {"total_timesteps": 10})
    return checkpoint(folder)["agent"]


@pytest.mark.parametrize("script, changes", CASES)
def test_it_learns_from_what_it_did(script, changes, tmp_path):
    mean_return = train(script, tmp_path / "run", **changes)
    state = checkpoint(tmp_path / "run")
    assert state["num_updates"] > 20
    before = untrained(script, tmp_path / "untrained", **changes)
    still = [
        name
        for name in before
        if torch.equal(before[name], state["agent"][name]) and "num_batches" not in name
    ]
    # by default its noise has no memory
    assert still == (["ou_noise"] if script == "ddpg" and "batch_norm" not in changes else [])
    assert math.isfinite(mean_return) and mean_return == float(
        read_csv(tmp_path / "run" / "evaluations.csv")[-1]["return_mean"]
    )
    if script == "ppo_continuous":  # it keeps no replay
        return
    rows = replay(tmp_path / "run")
    assert len(rows["frames"]) >= min(state["global_step"], parse(script, flags(changes)).buffer_size)
    assert rows["frames"].std() > 0 and rows["actions"].std() > 0


@pytest.mark.parametrize("script", SCRIPTS)
def test_its_losses_are_logged(script, tmp_path):
    train(script, tmp_path / "run", total_timesteps=1000)
    (row,) = read_csv(tmp_path / "run" / "progress.csv")
    assert {name.removeprefix("losses/") for name in row if name.startswith("losses/")} == LOSSES[script]
    assert all(
        math.isfinite(float(value))
        for name, value in row.items()
        if name.startswith("losses/") or name == "charts/num_updates"
    )


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_command_line_does_the_same(script, problem, tmp_path):
    changes = PROBLEMS[problem] | {"total_timesteps": 80}
    starts = Fork if problem == "pixels" else begin  # a child, whose laps are short
    process = starts(script, command_line(script, tmp_path / "command", **changes))
    _, stderr = process.communicate(timeout=200)
    assert process.returncode == 0, stderr
    train(script, tmp_path / "call", **changes)
    a, b = (checkpoint(tmp_path / name)["agent"] for name in ("command", "call"))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("num_envs", [1, 2])
def test_a_module_where_the_command_is_typed_is_found(num_envs, tmp_path):
    lines = [
        "import gymnasium as gym",
        "gym.register('Mine-v0', 'gymnasium.envs.classic_control:PendulumEnv', max_episode_steps=200)",
    ]
    (tmp_path / "my_module.py").write_text("\n".join(lines))
    words = command_line(
        SCRIPTS[0], tmp_path / "run", env_id="my_module:Mine-v0", total_timesteps=60, num_envs=num_envs
    )
    process = start(SCRIPTS[0], words, cwd=tmp_path, python_path=ROOT)
    _, stderr = process.communicate(timeout=200)
    assert process.returncode == 0, stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_args_made_in_python_are_enough(script, tmp_path):
    args = load_script(script).Args(
        env_id="Pendulum-v1", total_timesteps=120, runs_dir=str(tmp_path), eval_episodes=1
    )
    assert math.isfinite(load_script(script).train(args))


SCHEDULES = [("sac_drq", "constant", 1.0)]
SCHEDULES += [(script, "linear", 0.01) for script in ("sac_drq", "td3", "ddpg")]


@pytest.mark.parametrize("script, schedule, last", SCHEDULES)
def test_the_learning_rate_follows_its_schedule(script, schedule, last, tmp_path):
    train(
        script,
        tmp_path / "run",
        total_timesteps=100,
        learning_rate=0.5e-3,
        learning_rate_schedule=schedule,
    )
    for name, optimizer in checkpoint(tmp_path / "run")["optimizers"].items():
        # of the update after the 99th step
        assert optimizer["param_groups"][0]["lr"] == pytest.approx(last * 0.5e-3), name


@pytest.mark.parametrize("script", having("exploration_noise"))
@pytest.mark.parametrize("last", [0.1, None])
def test_exploration_noise_changes_to_its_end_also_after_a_resume(script, last, tmp_path, monkeypatch):
    agent, noises = load_script(script).Agent, []
    act = agent.act

    def record(self, obs, deterministic=False):
        if not deterministic:
            noises.append(self.exploration_noise.item())
        return act(self, obs, deterministic)

    monkeypatch.setattr(agent, "act", record)
    noise = {"exploration_noise": 0.5, "exploration_steps": 80}
    noise |= {} if last is None else {"final_exploration_noise": last}
    train(script, tmp_path / "run", total_timesteps=60, learning_starts=20, **noise)
    resume(script, tmp_path / "run", total_timesteps=100)
    expected = np.interp(np.arange(20, 100), [0, 80], [0.5, last or 0.5])
    assert noises == pytest.approx(expected)


@pytest.mark.parametrize("script", ["sac_drq", "td3", "ddpg"])
def test_a_run_begins_with_uniformly_random_actions(script, tmp_path):
    train(script, tmp_path / "run", total_timesteps=60, num_envs=3, learning_starts=50)
    rng = np.random.default_rng(1)
    random = [rng.uniform(-1, 1, (3, 1)).astype(np.float32) for _ in range(20)]
    actions = replay(tmp_path / "run")["actions"]
    assert np.array_equal(actions[:17], random[:17])  # 51 steps are the first that are at least 50
    assert not np.isclose(actions[17:20], random[17:20]).any()


@pytest.mark.parametrize("script", having("reward_scale"))
def test_what_is_learned_from_are_scaled_rewards(script):
    weights = []
    for scale, factor in ((0.5, 1.0), (1.0, 0.5)):
        agent = make_agent(script, "state", CPU, reward_scale=scale)
        batch = make_buffer(script, "state", CPU).sample(16, np.random.default_rng(1))
        torch.manual_seed(1)
        agent.update(batch._replace(rewards=factor * batch.rewards))
        weights.append(agent.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("script", having("random_shift"))
def test_images_before_and_after_a_step_are_shifted(script, monkeypatch):
    monkeypatch.setattr(load_script(script).Agent, "random_shift", lambda self, images: images.flip(3))
    weights = []
    for shifts in (True, False):
        agent = make_agent(script, "pixels", CPU, random_shift=shifts)
        batch = make_buffer(script, "pixels", CPU).sample(16, np.random.default_rng(1))
        if not shifts:
            batch = batch._replace(obs=batch.obs.flip(3), next_obs=batch.next_obs.flip(3))
        torch.manual_seed(1)
        agent.update(batch)
        weights.append(agent.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_bf16_trains_close_to_fp32(script, problem, tmp_path):
    changes = PROBLEMS[problem] | {"total_timesteps": 60, "updates_per_step": 0.2}
    for precision in ("fp32", "bf16"):
        train(script, tmp_path / precision, **changes, precision=precision)
    state = checkpoint(tmp_path / "fp32")
    fp32, bf16 = (checkpoint(tmp_path / precision)["agent"] for precision in ("fp32", "bf16"))
    assert all(tensor.dtype != torch.bfloat16 for tensor in bf16.values())
    assert any(not torch.equal(fp32[name], bf16[name]) for name in fp32)
    # at most, by Adam, whatever the gradient's size
    moved = state["num_updates"] * state["args"]["learning_rate"]
    for name in (name for name in fp32 if "statistics" not in name):
        torch.testing.assert_close(bf16[name], fp32[name], atol=2 * moved, rtol=0)


@pytest.mark.parametrize("script", ["sac_drq", "td3", "ddpg", "ppo_continuous"])
def test_each_environment_and_dimension_explores_for_itself(script):
    module = load_script(script)
    agent = module.Agent(module.Args(num_envs=4), Box(-1, 1, (3,)), Box(-1, 1, (2,)), torch.device("cpu"))
    exploring, greedy = (
        agent.act(np.ones((4, 3), np.float32), deterministic=choice) for choice in (False, True)
    )
    assert len(np.unique(exploring - greedy)) == 8 and np.allclose(greedy, greedy[0])


@pytest.mark.parametrize("script", SCRIPTS)
def test_without_a_compiler_a_run_goes_on_without_compiling(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CXX", "no-such-compiler")
    train(script, tmp_path / "run", total_timesteps=80, compile=True)
    assert "--compile" in capsys.readouterr().err
    state = checkpoint(tmp_path / "run")
    assert state["num_updates"] > 2 and not state["args"]["compile"]


# --- what is counted and stored ---


@pytest.mark.parametrize("script", having("updates_per_step"))
@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("updates_per_step", [0.25, 1.5])
def test_updates_per_transition_do_not_depend_on_num_envs(
    script, num_envs, updates_per_step, tmp_path, monkeypatch
):
    buffer, draws = load_script(script).ReplayBuffer, []
    sample = buffer.sample
    monkeypatch.setattr(buffer, "sample", lambda *args, **kwargs: draws.append(1) or sample(*args, **kwargs))
    ratio = {"updates_per_step": updates_per_step, "learning_starts": 60}
    train(
        script,
        tmp_path / "run",
        total_timesteps=120,
        num_envs=num_envs,
        training_wrappers=("Patience,frames=10",),
        **ratio,
    )
    state = checkpoint(tmp_path / "run")
    assert state["num_updates"] == len(draws) == int((state["global_step"] - 60) * updates_per_step)
    assert float(read_csv(tmp_path / "run" / "evaluations.csv")[-1]["length_mean"]) == 200, (
        "patience is for training only"
    )


@pytest.mark.parametrize("script", SCRIPTS)
def test_ends_are_stored_as_the_environment_told_them(script, tmp_path):
    # PPO: no update empties it
    train(script, tmp_path / "run", env_id="conftest:CountingState-v0", total_timesteps=40, num_steps=200)
    rows = replay(tmp_path / "run")
    env = make_env("conftest:CountingState-v0", seed=(1, 0))
    env.reset()
    ends = [env.step(np.zeros(2, np.float32))[2:4] for _ in rows["final"]]
    assert np.array_equal(np.stack([rows["terminations"], rows["truncations"]], axis=-1)[:, 0], ends)
    assert rows["terminations"].any() and (rows["truncations"] & ~rows["terminations"]).any()


@pytest.mark.parametrize("script", having("buffer_size"))
def test_a_step_that_only_resets_is_not_counted(script, tmp_path):
    train(
        script, tmp_path / "run", total_timesteps=150, num_envs=2, training_wrappers=("Patience,frames=20",)
    )
    state = checkpoint(tmp_path / "run")
    final = replay(tmp_path / "run")["final"]
    assert final.sum() == 2 * 3  # episodes of 20 steps; the last reset is still due
    assert final.size - final.sum() == state["global_step"]
