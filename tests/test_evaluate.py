"""`evaluate.py` gives back the score of a checkpoint, films it, and compares its values with what came."""

import json
from types import SimpleNamespace

import imageio.v2 as imageio
import numpy as np
import pytest
from helpers import SCRIPTS, input_error, train

from cleanrl_cc.common.envs import make_env
from cleanrl_cc.common.evaluation import EVALUATION_SEED, play_episode
from cleanrl_cc.common.tables import read_csv
from cleanrl_cc.evaluate import Options, analyze_value, evaluate, main


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate") / "run"
    train(SCRIPTS[0], folder, total_timesteps=300, eval_frequency=100, eval_episodes=3)
    return folder


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_score_of_the_best_policy_is_given_back_exactly(script, tmp_path):
    train(script, tmp_path / "run", total_timesteps=300, eval_frequency=100, eval_episodes=2)
    best = max(read_csv(tmp_path / "run" / "evaluations.csv"), key=lambda row: float(row["return_mean"]))
    result = evaluate(Options(str(tmp_path / "run"), episodes=2, seed=EVALUATION_SEED, device="cpu"))
    for name in ("global_step", "return_mean", "return_std", "return_min", "length_mean"):
        assert result[name] == float(best[name]), name


def test_every_episode_is_filmed(run):
    evaluate(Options(str(run / "last.pt"), episodes=2, save_video=True, device="cpu"))
    films = sorted((run / "videos").glob("*.mp4"))
    assert [film.name for film in films] == [
        "evaluation-last-seed-10000.mp4",
        "evaluation-last-seed-10001.mp4",
    ]
    frames = imageio.mimread(films[0], memtest=False)
    assert len(frames) == 200 and np.std(frames) > 0


def test_json_is_one_object_and_values_are_drawn(run, capsys):
    main([str(run), "--episodes", "2", "--json", "--analyze-value", "--device", "cpu"])
    printed = capsys.readouterr().out
    assert len(printed.strip().splitlines()) == 1
    result = json.loads(printed)
    assert [episode["seed"] for episode in result["episodes"]] == [10_000, 10_001]
    assert result["return_mean"] == pytest.approx(np.mean([episode["r"] for episode in result["episodes"]]))
    assert -1 <= result["value_correlation"] <= 1
    assert imageio.imread(run / "value.png").std() > 0


def test_a_trace_ends_with_the_value_of_a_time_limit_and_realised_returns_go_on_with_it(tmp_path):
    agent = SimpleNamespace(
        act=lambda obs, deterministic: np.zeros((1, 1), np.float32), value=lambda obs: np.full(1, 7.0)
    )
    trace = []
    play_episode(make_env("Pendulum-v1"), agent, seed=1, trace=trace)
    assert len(trace) == 201 and trace[-1] == (7.0, 0.0)
    # Gamma is 0.5: with rewards of 1 and then a value of 2 every realised return is 2, with
    # rewards of 2 and a value of 4 it is 4.
    too_high = np.array([[3.0, 1.0]] * 10 + [[2.0, 0.0]])
    right = np.array([[4.0, 2.0]] * 10 + [[4.0, 0.0]])
    analysis = analyze_value([too_high, right], 0.5, tmp_path / "value.png")
    assert (analysis["value_bias"], analysis["value_correlation"]) == pytest.approx((0.5, 1.0))


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"episodes": 0}, ["--episodes", "at least 1"]),
        ({"seed": -5}, ["--seed", "at least 0"]),
        ({"render": True, "save_video": True}, ["--render", "--save-video"]),
        ({"render": True}, ["--render", "screen", "--save-video"]),
        ({"seed": 2**32}, ["--seed", "4294967296"]),
        ({"device": "cuda:7"}, ["--device cuda:7"]),
    ],
)
def test_a_wrong_option(changes, words, run, monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    message = input_error(evaluate, Options(str(run), **{"device": "cpu"} | changes))
    assert all(word in message for word in words)


def test_a_checkpoint_that_is_not_there(tmp_path):
    assert "no checkpoint" in input_error(evaluate, Options(str(tmp_path)))
