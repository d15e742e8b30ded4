"""Peers trained beside ours: what a preset says is translated or refused, and their files are as ours."""

import json
from dataclasses import fields

import numpy as np
import pytest
import torch
from helpers import input_error, load_benchmark, load_script, parse, train

from cleanrl_cc.common.arguments import RunArgs
from cleanrl_cc.common.tables import read_csv

peer_curve = load_benchmark("peer_curve")
SHORT = ["--total-timesteps", "120", "--eval-episodes", "1", "--eval-frequency", "60"]
OFF_POLICY = ["--learning-starts", "40", "--buffer-size", "500", "--batch-size", "16", "--hidden-dim", "16"]
OFF_POLICY += ["--updates-per-step", "0.25"]
MINIBATCHES = ["--num-minibatches", "4"]
TASKS = {
    "ppo_continuous": ["--env-id", "Pendulum-v1", "--num-envs", "2", "--num-steps", "30", *MINIBATCHES],
    "sac_drq": ["--env-id", "LunarLander-v3", "--reward-scale", "0.5", *OFF_POLICY],
    "td3": ["--env-id", "Pendulum-v1", "--policy-frequency", "3", *OFF_POLICY],
    "ddpg": ["--env-id", "Pendulum-v1", "--num-envs", "2", *OFF_POLICY],
    "dqn_atari_style": ["--env-id", "CartPole-v1", "--epsilon-steps", "40", *OFF_POLICY],
}


def translated(script: str, *words: str) -> dict:
    return peer_curve.translate(peer_curve.Options("sb3", script), parse(script, list(words)))


@pytest.mark.parametrize("script", TASKS)
def test_every_field_of_a_script_is_translated_refused_or_of_no_consequence(script):
    known = {*peer_curve.SAME, *peer_curve.TRANSLATED, *peer_curve.ABSENT, *peer_curve.UNUSED}
    own = {item.name for item in fields(load_script(script).Args)} - {item.name for item in fields(RunArgs)}
    assert own <= known


@pytest.mark.slow
@pytest.mark.parametrize("script", TASKS)
def test_a_peer_is_trained_and_leaves_files_as_ours(script, tmp_path, monkeypatch):
    models = []
    found = peer_curve.peer_class

    def keep(options, arguments):
        algorithm = found(options, arguments)
        return lambda *args, **kwargs: models.append(algorithm(*args, **kwargs)) or models[-1]

    monkeypatch.setattr(peer_curve, "peer_class", keep)
    words = ["--peer", "sb3", "--script", script, *TASKS[script], *SHORT]
    peer_curve.main([*words, "--runs-dir", str(tmp_path / "runs")])
    (model,) = models
    assert model._n_updates == 20  # an update for four of the last 80 steps; PPO: 10 epochs of two rollouts
    (file,) = (tmp_path / "runs").glob(f"{script}-sb3/*/seed-1/evaluations.csv")
    rows = read_csv(file)
    assert [row["global_step"] for row in rows] == ["60", "120"]
    train("td3", tmp_path / "ours", total_timesteps=60)
    ours = read_csv(tmp_path / "ours" / "evaluations.csv")
    assert rows[0].keys() - {"length_mean"} >= ours[0].keys() - {"length_mean"}

    collect, report = load_benchmark("collect"), load_benchmark("report")
    description = json.loads((file.parent / "args.json").read_text())
    description["commands"] = ["benchmark/peer_curve.py typed by hand"]
    (file.parent / "args.json").write_text(json.dumps(description))
    target = collect.collect(file.parent, collect.Options((file.parent,), 1, results=tmp_path / "results"))
    assert target.parts[-3] == f"{script}-sb3"
    description = json.loads((target / "args.json").read_text())
    assert (description["algorithm"], description["args"]["precision"]) == (script, "fp32")
    report.write_report(report.Options(results=tmp_path / "results", out=tmp_path / "docs", readme=None))
    page = (tmp_path / "docs" / "benchmarks.md").read_text()
    assert "(sb3)" in page and "typed by hand" in page


def test_a_preset_is_translated():
    sac = translated("sac_drq", "--env-id", "LunarLander-v3", "--num-envs", "3", "--updates-per-step", "0.5")
    expected = {"gamma": 0.99, "tau": 0.01, "n_steps": 3, "train_freq": 2, "gradient_steps": 3}
    expected |= {"ent_coef": "auto_1.0", "target_entropy": "auto", "learning_rate": 7.3e-4}
    assert expected.items() <= sac.items()
    ppo = translated("ppo_continuous", "--env-id", "Hopper-v5")
    assert (ppo["n_steps"], ppo["batch_size"], ppo["vf_coef"]) == (256, 64, 0.25)
    assert ppo["learning_rate"](0.5) == pytest.approx(1.5e-4)
    assert ppo["policy_kwargs"]["log_std_init"] == -0.5
    assert ppo["policy_kwargs"]["activation_fn"] is torch.nn.Tanh
    dqn = translated("dqn_atari_style", "--env-id", "CartPole-v1")
    assert (dqn["target_update_interval"], dqn["train_freq"], dqn["gradient_steps"]) == (256, 2, 1)


def test_a_rate_falls_as_ours():
    cosine = parse("ppo_continuous", ["--learning-rate-schedule", "cosine", "--learning-rate", "2"])
    falling = [peer_curve.schedule(cosine)(remaining) for remaining in (1, 0.5, 0)]
    assert falling == pytest.approx([2, 1, 0])


def test_exploration_falls_as_ours():
    args = parse("dqn_atari_style", ["--total-timesteps", "100", "--learning-starts", "20"])
    args.epsilon_steps, args.epsilon_end = 40, 0.1
    falling = [peer_curve.exploration(args, 1 - step / 100) for step in (0, 20, 40, 60, 100)]
    assert falling == pytest.approx([1, 1, 0.55, 0.1, 0.1])


@pytest.mark.parametrize(
    "script, words, told",
    [
        ("rainbow", [], ["sb3", "rainbow.py"]),
        ("sac_drq", ["--env-id", "Pendulum-v1", "--policy-average", "0.01"], ["--policy-average", "0.0"]),
        ("ddpg", ["--env-id", "Pendulum-v1", "--batch-norm"], ["--batch-norm", "False"]),
        ("ppo_continuous", ["--action-distribution", "beta"], ["--action-distribution", "normal"]),
        ("dqn_atari_style", ["--env-id", "Pendulum-v1"], ["discrete actions", "Pendulum-v1"]),
        ("td3", ["--env-id", "CarRacing-v3", "--final-exploration-noise", "None"], ["--obs state"]),
        ("td3", ["--env-id", "Nonsense-v7"], ["Nonsense-v7"]),
    ],
)
def test_what_a_peer_lacks_is_refused_before_anything_is_written(script, words, told, tmp_path):
    argv = ["--peer", "sb3", "--script", script, *words, "--runs-dir", str(tmp_path / "runs")]
    message = input_error(peer_curve.main, argv)
    assert all(word in message for word in told), message
    assert not (tmp_path / "runs").exists()


def test_what_another_version_of_a_peer_lacks_is_refused(monkeypatch):
    class SAC:
        def __init__(self, policy, env, gamma):
            pass

    monkeypatch.setattr("stable_baselines3.SAC", SAC)
    options = peer_curve.Options("sb3", "sac_drq")
    assert "n_steps" in input_error(peer_curve.peer_class, options, {"gamma": 0.9, "n_steps": 3})
    arguments = {"gamma": 0.9, "n_steps": 1}
    assert peer_curve.peer_class(options, arguments) is SAC and arguments == {"gamma": 0.9}


def test_a_rewards_scale_is_of_training_alone():
    args = parse("sac_drq", ["--env-id", "Pendulum-v1", "--reward-scale", "0.5"])
    env, whole = peer_curve.training_env(args, 0), peer_curve.make_env("Pendulum-v1", seed=(1, 0))
    env.reset(), whole.reset()
    action = np.zeros(1, np.float32)
    assert env.step(action)[1] == 0.5 * whole.step(action)[1]
