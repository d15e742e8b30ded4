"""Other people's environments train and resume; `common/test_checks.py` has those that break a promise."""

from pathlib import Path

import gymnasium as gym
import pytest
from helpers import assert_same_training, resume, train

from cleanrl_cc.common import evaluation
from cleanrl_cc.common.tables import read_csv

pytestmark = pytest.mark.slow

DISCRETE = ("dqn_atari_style", "rainbow")
TRAINS = [(script, name) for script in DISCRETE for name in ("Lookup", "Shifted", "ManyActions")]
TRAINS += [("sac_drq", name) for name in ("OurNames", "InfoNumber", "InfoDict", "Board", "NothingElse")]
TRAINS += [("ppo_continuous", "OurNames"), ("dqn_atari_style", "ChannelFirst"), ("sac_drq", "OwnStack")]


@pytest.mark.parametrize("script, name", TRAINS)
def test_it_trains_and_resumes_bit_for_bit(script, name, tmp_path):
    changes = {"env_id": f"odd_envs:{name}-v0", "buffer_size": 1000}
    if (script, name) == ("rainbow", "ManyActions"):  # c51 would have two million outputs
        changes["components"] = ("double", "per")
    train(script, tmp_path / "grown", total_timesteps=75, **changes)
    resume(script, tmp_path / "grown", total_timesteps=110)
    train(script, tmp_path / "direct", total_timesteps=110, **changes)
    assert_same_training(tmp_path / "grown", tmp_path / "direct")
    assert float(read_csv(tmp_path / "direct" / "progress.csv")[-1]["charts/episodic_length"]) == 30


def test_an_environment_may_leave_the_working_directory(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    train("sac_drq", Path("run"), env_id="odd_envs:Wanders-v0", total_timesteps=75)
    monkeypatch.chdir(tmp_path)
    resume("sac_drq", Path("run"), total_timesteps=110)
    train("sac_drq", tmp_path / "direct", env_id="odd_envs:Wanders-v0", total_timesteps=110)
    assert_same_training(tmp_path / "run", tmp_path / "direct")
    assert capsys.readouterr().out.startswith("run: mean return")


@pytest.mark.parametrize("name", ["Taxi", "FrozenLake", "CliffWalking"])
@pytest.mark.parametrize("script", DISCRETE)
def test_grid_worlds_of_gymnasium_resume(script, name, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "CUT_STEPS", (40, 80))
    newest = max(env_id for env_id in gym.registry if env_id.startswith(f"{name}-v"))
    changes = {"env_id": newest, "training_wrappers": ("Patience,frames=20",)}
    train(script, tmp_path / "grown", total_timesteps=75, **changes)
    resume(script, tmp_path / "grown", total_timesteps=110)
    train(script, tmp_path / "direct", total_timesteps=110, **changes)
    assert_same_training(tmp_path / "grown", tmp_path / "direct")
