"""Environments alone and whole trainings are timed for each number of environments."""

import pytest
from helpers import load_benchmark

from cleanrl_cc.common.tables import read_csv

pytestmark = pytest.mark.slow


def test_each_number_of_environments_is_timed(tmp_path, monkeypatch, capsys):
    words = ["many_envs.py", "--num-envs", "1", "4", "--seconds", "0.1", "--rollout", "128"]
    monkeypatch.setattr("sys.argv", [*words, "--csv", str(tmp_path / "many_envs.csv")])
    program = load_benchmark("many_envs")
    monkeypatch.setattr(program, "ENV_IDS", ("Pendulum-v1",))
    program.main()
    rows = read_csv(tmp_path / "many_envs.csv")
    assert [(row["env_id"], row["num_envs"]) for row in rows] == [("Pendulum-v1", "1"), ("Pendulum-v1", "4")]
    assert all(float(row["environments_alone"]) > float(row["ppo"]) > 0 for row in rows)
    assert "environment steps/s" in capsys.readouterr().out


def test_all_numbers_of_environments_learn_equally_much_from_a_step():
    program = load_benchmark("many_envs")
    for num_envs in program.Options.num_envs:
        args = program.make_args("HalfCheetah-v5", num_envs, program.Options.rollout)
        assert args.num_envs * args.num_steps == program.Options.rollout
        assert args.num_envs * args.num_steps // args.num_minibatches == program.MINIBATCH
