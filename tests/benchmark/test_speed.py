"""Speeds are compared over equal steps and equal networks."""

import pytest
from helpers import load_benchmark, load_script

from cleanrl_cc.common.arguments import preset_args


def test_speed_is_measured_over_the_same_steps_for_all():
    speed = load_benchmark("speed")
    task = {"first": 1000, "steps": 3000 - speed.WARMUP}
    clock = [(step, step / 50) for step in range(0, 3001, 100)]
    # a rollout that no update follows
    beyond = [(step, 60 + (step - 3000) / 500) for step in range(3100, 4001, 100)]
    assert (
        speed.steps_per_second(clock, task)
        == speed.steps_per_second(clock + beyond, task)
        == pytest.approx(50)
    )


def test_speed_is_measured_with_networks_of_the_peers_width():
    for name, task in load_benchmark("speed").TASKS.items():
        if task["policy"] == "MlpPolicy":
            script = load_script(task["script"])
            preset = preset_args(script.Args, script.PRESETS, task["script_env"])
            peer_width = 64 if task["peer"] == "PPO" else 256  # Stable-Baselines3's and SBX's own
            assert task["ours"].get("hidden_dim", preset.hidden_dim) == peer_width, name
