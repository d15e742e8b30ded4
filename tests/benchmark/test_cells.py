"""Which cells are finished, and how their numbers are written."""

from typing import get_args

import numpy as np
import pytest
from helpers import load_benchmark, load_script


def scored(*steps: int, last: int, total: int = 1_000_000) -> dict:
    """A run that was scored over unseen episodes at these steps; the return is the steps in thousands."""
    unseen = {step: {"return_mean": step / 1000} for step in steps}
    evaluations = {"global_step": np.array([last]), "return_mean": np.array([last / 1000])}
    return {"args": {"total_timesteps": total}, "unseen": unseen, "evaluations": evaluations}


@pytest.mark.parametrize(
    "runs, planned, expected",
    [
        ([scored(1_000_000, last=1_000_000)], 1_000_000, (1_000_000, [1000])),
        ([scored(300_000, 1_000_007, last=1_000_007)], 1_000_000, (1_000_000, [1000.007])),
        ([scored(300_000, last=640_000), scored(301_000, last=301_000)], 1_000_000, (300_000, [300, 301])),
        ([scored(1_000_000, 1_010_000, last=1_010_000)], 1_000_000, (1_000_000, [1000])),  # the first of two
        ([scored(640_000, last=640_000)], 1_000_000, (0, [])),  # stopped short, and not scored at 300k
        ([scored(300_000, last=300_000)], 2_000_000, (0, [])),
        ([scored(500_000, last=500_000, total=500_000)], None, (500_000, [500])),  # no script lists it
        ([scored(last=1_000_000)], 1_000_000, (0, [])),
    ],
)
def test_a_cell_is_finished_where_its_runs_were_scored_at_the_steps_that_were_asked_for(
    runs, planned, expected
):
    assert load_benchmark("cells").finished(runs, planned) == expected


def test_what_was_asked_for_does_not_depend_on_the_user_s_variables(monkeypatch):
    cells = load_benchmark("cells")
    for name, value in (("STEPS", "20000"), ("FLAGS", "--obs pixels"), ("SEEDS", "7 8")):
        monkeypatch.setenv(name, value)
    assert cells.planned_cells()["HalfCheetah-v5 from state"]["td3"] == 1_000_000


def test_an_interval_covers_what_it_should():
    interval, rng = load_benchmark("cells").interval, np.random.default_rng(1)
    covered = [low < 0 < high for low, high in (interval(rng.normal(size=20)) for _ in range(50))]
    assert 0.86 < np.mean(covered) < 1


@pytest.mark.parametrize("num_seeds, share", [(2, 1 / 2), (3, 3 / 4)])
def test_an_interval_of_few_seeds_is_their_range_and_covers_less(num_seeds, share):
    """As the report says."""
    interval, rng = load_benchmark("cells").interval, np.random.default_rng(2)
    samples = rng.normal(size=(200, num_seeds))
    intervals = np.array([interval(sample) for sample in samples])
    np.testing.assert_allclose(intervals, np.stack([samples.min(axis=1), samples.max(axis=1)], axis=1))
    covered = (intervals[:, 0] < 0) & (intervals[:, 1] > 0)
    assert covered.mean() == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / 200))


def test_the_ablation_is_planned_on_two_tasks():
    planned = load_benchmark("cells").planned_cells()
    parts = [set(cells) for heading, cells in planned.items() if heading.startswith("Ablation: ")]
    assert len(parts) == 2 and parts[0] == parts[1]
    components = get_args(load_script("rainbow").Component)
    assert {f"ablation-no-{name}" for name in components} | {"ablation-rainbow"} <= parts[0]


def test_the_control_suite_is_planned_from_pixels_and_from_state():
    planned = load_benchmark("cells").planned_cells()
    bins = {"dqn_atari_style-pixels", "rainbow-pixels"}
    for task in ("walker-walk", "cheetah-run", "hopper-hop"):
        assert {*bins, "sac_drq"} <= planned[f"dm_control/{task}-v0 from pixels"].keys()
    assert bins <= planned["dm_control/humanoid-walk-v0 from pixels"].keys()
    for task in ("walker-walk", "cheetah-run", "humanoid-walk"):
        assert {"dqn_atari_style", "rainbow"} <= planned[f"dm_control/{task}-v0 from state"].keys()
