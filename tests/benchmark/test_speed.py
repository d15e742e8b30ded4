"""Speeds are compared over equal steps and equal networks, and on a GPU beside its checks."""

import os
import shlex
import subprocess

import pytest
import tyro
from helpers import ROOT, load_benchmark, load_script, parse

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


def test_all_of_gpu_sh_runs_although_a_check_fails_and_the_exit_code_tells(tmp_path):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$@" >> "$(dirname "$0")/typed"\n[ "$2" != pytest ] || exit 3\n')
    python.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CSV": "speed.csv"}
    result = subprocess.run(
        ["bash", ROOT / "benchmark/gpu.sh"], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 3
    assert "LeanRL over CleanRL, SAC 5.7, TD3 3.4, PPO 2.7" in result.stdout
    _, checks, speed, training = map(shlex.split, (tmp_path / "typed").read_text().splitlines())
    assert checks[:4] == ["-m", "pytest", "-m", "cuda"]
    options = tyro.cli(load_benchmark("speed").Options, args=speed[1:])
    assert (options.device, options.csv) == ("cuda", "speed.csv")
    assert parse("sac_drq", training[1:]).compile
