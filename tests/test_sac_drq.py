"""sac_drq.py trains for real, from vectors and from pixels, through `train` and through the command line."""

import math

import pytest
import torch
import torch._inductor.config
from helpers import PIXELS, checkpoint, command_line, flags, parse, start, train

from cleanrl_cc import sac_drq
from cleanrl_cc.checkpoints import load_replay
from cleanrl_cc.runs import read_csv

PROBLEMS = {"vector": {"total_timesteps": 1100}, "pixels": PIXELS}


def untrained(folder, **changes) -> dict:
    """The weights before the first update."""
    train("sac_drq", folder, **changes | {"total_timesteps": 10})
    return checkpoint(folder)["agent"]


@pytest.mark.parametrize("problem", PROBLEMS)
def test_it_learns_from_what_it_did(problem, tmp_path):
    changes = PROBLEMS[problem]
    mean_return = train("sac_drq", tmp_path / "run", **changes)
    state = checkpoint(tmp_path / "run")
    assert state["counters"]["num_updates"] > 20
    before = untrained(tmp_path / "untrained", **changes)
    assert [name for name in before if torch.equal(before[name], state["agent"][name])] == []
    assert math.isfinite(mean_return) and mean_return == float(read_csv(tmp_path / "run" / "evaluations.csv")[-1]["return_mean"])
    rows = load_replay(tmp_path / "run" / state["replay"])
    assert len(rows["frames"]) >= min(state["global_step"], parse("sac_drq", flags(changes)).buffer_size)
    assert rows["frames"].std() > 0 and abs(rows["actions"]).max() <= 1


def test_its_losses_are_logged(tmp_path):
    train("sac_drq", tmp_path / "run", total_timesteps=1000)
    (row,) = read_csv(tmp_path / "run" / "progress.csv")
    for name in ("losses/qf_loss", "losses/actor_loss", "losses/alpha_loss", "losses/alpha", "losses/entropy", "charts/num_updates"):
        assert math.isfinite(float(row[name])), name


@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_command_line_does_the_same(problem, tmp_path):
    changes = PROBLEMS[problem] | {"total_timesteps": 80}
    process = start("sac_drq", command_line("sac_drq", tmp_path / "command", **changes))
    _, stderr = process.communicate(timeout=200)
    assert process.returncode == 0, stderr
    train("sac_drq", tmp_path / "call", **changes)
    a, b = (checkpoint(tmp_path / name)["agent"] for name in ("command", "call"))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_args_made_in_python_are_enough(tmp_path):
    args = sac_drq.Args(env_id="Pendulum-v1", total_timesteps=120, learning_starts=50, runs_dir=str(tmp_path), eval_episodes=1)
    assert math.isfinite(sac_drq.train(args))


@pytest.mark.parametrize("schedule, last", [("constant", 1.0), ("linear", 0.01)])
def test_the_learning_rate_follows_its_schedule(schedule, last, tmp_path):
    train("sac_drq", tmp_path / "run", total_timesteps=100, learning_rate=0.5e-3, learning_rate_schedule=schedule)
    for name, optimizer in checkpoint(tmp_path / "run")["optimizers"].items():
        assert optimizer["param_groups"][0]["lr"] == pytest.approx(last * 0.5e-3), name  # of the update after the 99th step


@pytest.mark.parametrize("problem", PROBLEMS)
def test_bf16_trains_close_to_fp32(problem, tmp_path):
    changes = PROBLEMS[problem] | {"total_timesteps": 60, "updates_per_step": 0.2}
    for precision in ("fp32", "bf16"):
        train("sac_drq", tmp_path / precision, **changes, precision=precision)
    fp32, bf16 = (checkpoint(tmp_path / precision)["agent"] for precision in ("fp32", "bf16"))
    assert all(tensor.dtype == torch.float32 for tensor in bf16.values())
    assert any(not torch.equal(fp32[name], bf16[name]) for name in fp32)
    for name in fp32:  # Adam moves a weight by at most the learning rate per update, whatever the gradient's size
        torch.testing.assert_close(bf16[name], fp32[name], atol=2 * 2 * 3e-4, rtol=0)


def test_compiled_updates_equal_eager_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(torch._inductor.config, "fallback_random", True)  # the noise of eager code
    monkeypatch.setattr(torch._inductor.config, "compile_threads", 1)
    for compiled in (False, True):
        train("sac_drq", tmp_path / str(compiled), total_timesteps=80, compile=compiled)
    eager, compiled = (checkpoint(tmp_path / name) for name in ("False", "True"))
    assert compiled["counters"]["num_updates"] == 3
    assert compiled["agent"].keys() == eager["agent"].keys()
    for name, tensor in eager["agent"].items():
        torch.testing.assert_close(compiled["agent"][name], tensor, atol=1e-5, rtol=1e-4)
