"""Policies of the corridors are judged elsewhere."""

import shutil
from dataclasses import replace

import gymnasium as gym
import pytest
from helpers import input_error, load_benchmark, train

from cleanrl_cc.common.tables import read_csv, write_csv
from cleanrl_cc.evaluate import Options, evaluate


@pytest.mark.slow
def test_policies_of_the_corridors_are_judged_where_walls_stand_and_where_they_move(tmp_path, monkeypatch):
    robustness = load_benchmark("robustness")
    static, moving = (f"cleanrl_cc/Corridor{walls}-Ball-v0" for walls in ("Static", "Moving"))
    for env_id in (static, moving):
        monkeypatch.setattr(gym.spec(env_id), "max_episode_steps", 200)
    train("sac_drq", tmp_path / "runs" / "a", env_id=static, action_repeat=20, total_timesteps=60)
    train("sac_drq", tmp_path / "runs" / "elsewhere", total_timesteps=60)
    options = robustness.Options((tmp_path / "runs",), episodes=2, csv=tmp_path / "robustness.csv")
    other = {"algorithm": "td3", "seed": 2, "trained_env_id": moving, "env_id": static}
    write_csv(options.csv, [dict.fromkeys(robustness.COLUMNS, 0) | other])
    robustness.main(options)
    robustness.main(options)  # in place of the rows from before
    rows = read_csv(options.csv)
    places = [(row["algorithm"], row["trained_env_id"], row["env_id"]) for row in rows]
    assert places == [("sac_drq", static, moving), ("sac_drq", static, static), ("td3", moving, static)]
    policy = str(tmp_path / "runs" / "a" / "last.pt")
    score = evaluate(Options(policy, episodes=2, env_id=moving, device="cpu"))
    assert float(rows[0]["return_mean"]) == pytest.approx(score["return_mean"], abs=0.01)
    assert rows[0]["goals"] == "0.0" and rows[0]["episodes"] == "2"

    (tmp_path / "notes.txt").write_text("mine\n")
    of_someone_else = replace(options, csv=tmp_path / "notes.txt")
    assert "holds other columns" in input_error(robustness.main, of_someone_else)
    assert (tmp_path / "notes.txt").read_text() == "mine\n"
    shutil.copytree(tmp_path / "runs" / "a", tmp_path / "runs" / "variant")
    assert f"{tmp_path / 'runs' / 'a'} and {tmp_path / 'runs' / 'variant'} are both of" in input_error(
        robustness.main, options
    )
    (tmp_path / "runs" / "a" / "args.json").write_text("{")
    assert "has no args.json of a run" in input_error(robustness.main, options)
