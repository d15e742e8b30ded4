"""What the report's figures promise: one color a script, legends with the number of seeds, the same bytes."""

import numpy as np
from helpers import load_benchmark

figures = load_benchmark("figures")

HEADING = "Hopper-v5 from state"


def run(steps: int = 3, offset: float = 0.0) -> dict:
    columns = {
        "global_step": np.arange(1, steps + 1) * 1000,
        "return_mean": np.arange(steps) + offset,
        "return_std": np.ones(steps),
    }
    return {"args": {"action_repeat": 1}, "evaluations": columns}


def test_a_script_has_one_color_and_its_variants_are_paler():
    cells = {name: [run()] for name in ("td3", "td3-later-rate", "sac_drq")}
    lines = {name: (color, mark) for name, color, mark in figures.styles(cells)}
    assert np.allclose(lines["td3"][0], figures.to_rgb(figures.COLORS["td3"]))
    assert lines["td3-later-rate"][0] > lines["td3"][0]
    assert np.allclose(lines["sac_drq"][0], figures.to_rgb(figures.COLORS["sac_drq"]))
    assert lines["td3"][1] != lines["td3-later-rate"][1]


def test_a_figure_says_how_many_seeds_it_shows_and_is_the_same_each_time(tmp_path):
    cells = {"sac_drq": [run(), run(5, offset=1.0)], "td3": [run()]}
    anchor = {"algorithm": "td3", "label": "The paper's TD3", "score": "2.5", "steps": "1M"}
    for name in ("first.svg", "second.svg"):
        figures.draw_curves(HEADING, cells, [anchor], tmp_path / name)
    text = (tmp_path / "first.svg").read_text()
    for words in (HEADING, "SAC, 2 seeds", "TD3, 1 seed", "The paper's TD3"):
        assert words in text
    assert text == (tmp_path / "second.svg").read_text()


def test_a_score_of_a_script_that_is_not_drawn_is_left_out(tmp_path):
    anchor = {"algorithm": "ddpg", "label": "The paper's DDPG", "score": "2.5", "steps": "1M"}
    figures.draw_curves(HEADING, {"td3": [run()]}, [anchor], tmp_path / "curve.svg")
    assert "DDPG" not in (tmp_path / "curve.svg").read_text()
