"""One color is one script in every figure; peers are dashed, published scores dotted, variants paler."""

import sys

import numpy as np
import pytest
from helpers import input_error, load_benchmark
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

figures = load_benchmark("figures")


def run(*returns: float) -> dict:
    steps = 1000.0 * np.arange(1, len(returns) + 1)
    means = np.array(returns)
    evaluations = {"global_step": steps, "return_mean": means, "return_std": np.ones(len(returns))}
    return {"args": {"action_repeat": 2}, "evaluations": evaluations}


@pytest.fixture
def lines(monkeypatch, tmp_path):
    """Draws curves and returns their lines by label."""
    axes = []
    subplots = Figure.subplots
    monkeypatch.setattr(Figure, "subplots", lambda self: axes.append(subplots(self)) or axes[-1])

    def draw(heading: str, cells: dict, anchors: list) -> dict:
        figures.draw_curves(heading, cells, anchors, tmp_path / "curves.svg")
        assert (tmp_path / "curves.svg").read_bytes().startswith(b"<?xml")
        return {line.get_label(): line for line in axes[-1].get_lines()}

    return draw


def test_a_script_has_one_color_solid_dashed_for_a_peer_dotted_where_it_is_published(lines):
    cells = {name: [run(1, 2, 3)] for name in ("td3", "td3-sbx", "td3-faster", "ddpg")}
    anchors = [{"algorithm": "td3", "label": "published", "score": "7", "steps": "1M"}]
    anchors += [{"algorithm": "rainbow", "label": "not drawn", "score": "7", "steps": "1M"}]
    drawn = lines("Hopper-v5 from state", cells, anchors)
    styles = {label: (to_rgb(line.get_color()), line.get_linestyle()) for label, line in drawn.items()}
    green = to_rgb(figures.COLORS["td3"])
    assert styles["TD3, 1 seed"] == (green, "-")
    assert styles["TD3 (sbx), 1 seed"] == (green, "--")
    assert styles["published: 7 after 1M"] == (green, ":")
    paler, line = styles["TD3 (faster), 1 seed"]
    assert line == "-" and all(np.array(paler) >= green) and paler != green
    assert styles["DDPG, 1 seed"] == (to_rgb(figures.COLORS["ddpg"]), "-")
    assert len(styles) == 5


def test_the_axis_is_that_of_published_curves(lines):
    cells = {"sac_drq": [run(1, 2, 3), run(3, 4, 5, 6)]}
    on_robots, on_dm_control = (
        lines(f"{env_id} from state", cells, [])["SAC, 2 seeds"]
        for env_id in ("Hopper-v5", "dm_control/walker-walk-v0")
    )
    assert on_robots.get_xdata().tolist() == [1000, 2000, 3000]
    assert on_dm_control.get_xdata().tolist() == [2000, 4000, 6000]  # environment frames
    assert on_robots.get_ydata().tolist() == [2, 3, 4]


def test_seeds_that_were_evaluated_at_other_steps_are_averaged_at_equal_ones(lines):
    """As of a run that was resumed with another --eval-frequency."""
    often = run(1, 2, 3, 4, 5, 6)
    rarely = run(3, 5)
    rarely["evaluations"]["global_step"] = np.array([2000.0, 4000.0])
    line = lines("Hopper-v5 from state", {"sac_drq": [often, rarely]}, [])["SAC, 2 seeds"]
    assert line.get_xdata().tolist() == [2000, 4000]
    assert line.get_ydata().tolist() == [2.5, 4.5]
    assert line.axes.get_lines()[1].get_xydata().tolist() == [[4000, 4], [5000, 5], [6000, 6]]


def test_the_speed_of_many_environments_is_drawn_with_its_machine(tmp_path):
    machine = {"processor": "A processor", "kind": "AVX2", "cores": "2"}
    rows = [
        machine | {"env_id": env_id, "num_envs": str(number), "environments_alone": "90.5", "ppo": "50.5"}
        for env_id in ("HalfCheetah-v5", "CarRacing-v3")
        for number in (1, 16, 256)
    ]
    figures.draw_many_envs(rows, tmp_path / "many-envs.svg")
    text = (tmp_path / "many-envs.svg").read_text()
    for words in ("A processor (AVX2), 2 cores", "HalfCheetah-v5, alone", "CarRacing-v3, PPO", ">256<"):
        assert words in text, words


def test_without_matplotlib_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "figures", figures)  # which is there again after the test
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "[plot]" in input_error(load_benchmark, "figures")
