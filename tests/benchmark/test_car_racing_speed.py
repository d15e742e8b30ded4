"""CarRacing's speed beside Gymnasium's."""

from helpers import load_benchmark

from cleanrl_cc.common.tables import read_csv


def test_three_contenders_are_timed_in_turns(tmp_path, monkeypatch, capsys):
    words = ["car_racing_speed.py", "--steps", "4", "--rounds", "1", "--csv", str(tmp_path / "speed.csv")]
    monkeypatch.setattr("sys.argv", words)
    load_benchmark("car_racing_speed").main()
    rows = read_csv(tmp_path / "speed.csv")
    assert [row["contender"] for row in rows] == [
        "Gymnasium",
        "ours, every frame",
        "ours, one frame in four",
    ]
    assert rows[0]["ratio"] == "1.0" and float(rows[2]["steps_per_second"]) > 0
    assert "steps/s" in capsys.readouterr().out
