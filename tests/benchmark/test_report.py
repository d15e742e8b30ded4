"""The report rebuilt is the one committed, and says what the files of results say."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, input_error, load_benchmark, needs_results

from cleanrl_cc.common.tables import read_csv, write_csv

RESULTS = ROOT / "benchmark" / "results"


@pytest.mark.slow
@needs_results
def test_the_report_rebuilt_is_the_one_committed(tmp_path):
    report = load_benchmark("report")
    readme = Path(shutil.copy(ROOT / "README.md", tmp_path))
    report.write_report(report.Options(out=tmp_path, readme=readme))
    assert readme.read_bytes() == (ROOT / "README.md").read_bytes(), "run benchmark/report.py"
    assert (tmp_path / "benchmarks.md").read_bytes() == (ROOT / "docs" / "benchmarks.md").read_bytes(), (
        "run benchmark/report.py"
    )
    curves, committed = tmp_path / "assets" / "curves", ROOT / "docs" / "assets" / "curves"
    assert sorted(path.name for path in curves.iterdir()) == sorted(path.name for path in committed.iterdir())
    for curve in curves.iterdir():
        old = (committed / curve.name).read_bytes()
        if (
            re.search(rb"Matplotlib v[\d.]+", old)[0]
            == re.search(rb"Matplotlib v[\d.]+", curve.read_bytes())[0]
        ):
            assert curve.read_bytes() == old, f"run benchmark/report.py: {curve.name} differs"


def write_result(folder: Path, seed: int, returns: list[float], total_timesteps: int):
    """Of a run that was evaluated every 1,000 steps, each of which took 0.36 seconds."""
    folder.mkdir(parents=True)
    args = {
        "env_id": "My-v0",
        "obs": "auto",
        "seed": seed,
        "total_timesteps": total_timesteps,
        "action_repeat": 1,
    }
    args |= {"precision": "fp32", "random_shift": False, "runs_dir": "/r"}
    machine = {"processor": "P", "cores": 2, "threads": 1, "gpu": None}
    description = {
        "algorithm": "sac_drq",
        "args": args,
        "commands": ["as typed"],
        "machine": machine,
        "versions": {"torch": "2"},
    }
    (folder / "args.json").write_text(json.dumps(description))
    rows = [f"{1000 * (i + 1)},{360 * (i + 1)},{value},1" for i, value in enumerate(returns)]
    (folder / "evaluations.csv").write_text(
        "\n".join(["global_step,seconds,return_mean,return_std", *rows]) + "\n"
    )


def written_report(folder: Path) -> str:
    """The page of the results in `folder / "results"`."""
    report = load_benchmark("report")
    report.write_report(report.Options(results=folder / "results", out=folder / "docs", readme=None))
    return (folder / "docs" / "benchmarks.md").read_text()


def test_the_report_means_over_seeds(tmp_path):
    for seed, returns in {1: [0, 100, 50], 2: [10, 200, 150], 3: [20, 300, 250]}.items():
        folder = tmp_path / "results" / "ablation-x" / "My-v0" / f"seed-{seed}"
        write_result(folder, seed, returns, total_timesteps=3000)
        (folder / "episodes-3000.json").write_text(
            json.dumps({"global_step": 3000, "return_mean": 7, "return_std": 0, "episodes": [0] * 20})
        )
    page = written_report(tmp_path)
    assert (
        "python cleanrl_cc/sac_drq.py --env-id My-v0 --seed 1 --total-timesteps 3000 --no-random-shift\n"
        in page
    )
    table = page.split("### Ablation: My-v0 from state")[1].split("## ")[0]
    assert (
        "| x | 3 | 3,000 | 150 [50, 250] | 200 [100, 300] | 7.0 [7.0, 7.0] (20 episodes) | - | 0.3 |" in table
    )
    missing = (
        "DDPG, PPO, SAC, TD3, SAC (longer horizon), TD3 (longer horizon), DDPG (longer horizon), "
        "TD3 (linear), PPO (constant rate), PPO (linear)"
    )
    assert f"| LunarLander-v3 from state | {missing} |" in page.split("## Not yet run")[1]


def test_of_seeds_that_were_not_all_judged_the_report_says_how_many_were(tmp_path):
    for seed in (1, 2, 3):
        folder = tmp_path / "results" / "sac_drq" / "My-v0" / f"seed-{seed}"
        write_result(folder, seed, [seed, 2, 1], total_timesteps=3000)
        scores = {"return_mean": 10 * seed, "return_std": 4, "episodes": [0] * 20}
        for step in {1: (3000,), 2: (3000,), 3: (1000,)}[seed]:
            (folder / f"episodes-{step}.json").write_text(json.dumps(scores | {"global_step": step}))
    page = written_report(tmp_path)
    judged = "15 [10, 20] (20 episodes, 2 of 3 seeds) | 30 (+- 4, 20 episodes, 1 of 3 seeds)"
    assert f"| SAC | 3 | 3,000 | 1.0 [1.0, 1.0] | 2.3 [2.0, 3.0] | {judged} |" in page


def test_of_seeds_that_were_stopped_the_report_says_how_far_each_extreme_came(tmp_path):
    for seed, returns in {1: [10, 20], 2: [20, 30, 40, 50], 3: [30, 40, 60]}.items():
        write_result(
            tmp_path / "results" / "sac_drq" / "My-v0" / f"seed-{seed}", seed, returns, total_timesteps=9000
        )
    page = written_report(tmp_path)
    assert "| SAC | 3 | 2,000 to 4,000 of 9,000 | 43 [20, 60] | 43 [20, 60] | - | - | 0.3 |" in page
    assert "| My-v0 from state |  | - (2k to 4k of 9k) |" in page


def test_what_an_environment_measures_is_told_of_the_last_policy_of_each_seed(tmp_path):
    scores = {"return_mean": 900, "return_std": 30, "return_median": 911, "return_min": 700.5}
    scores |= {"length_mean": 200, "episodes": [0] * 100}
    measured = {1: {"tiles_missed_mean": 2.45, "grass_share_mean": 0.00673}, 2: {"tiles_missed_mean": 18}}
    for seed, means in measured.items():
        folder = tmp_path / "results" / "sac_drq" / "My-v0" / f"seed-{seed}"
        write_result(folder, seed, [1, 2, 3], total_timesteps=3000)
        for step, more in ((2000, {"spins_mean": 1}), (3000, means)):
            file = json.dumps(scores | more | {"global_step": step})
            (folder / f"episodes-{step}.json").write_text(file)
    page = written_report(tmp_path)
    head = "| algorithm | seed | episodes | return | standard error | median | worst "
    head += "| tiles missed | grass share |"
    first = "| SAC | 1 | 100 | 900.0 | 3.0 | 911.0 | 700.5 | 2.45 | 0.00673 |"
    second = "| SAC | 2 | 100 | 900.0 | 3.0 | 911.0 | 700.5 | 18 | - |"
    assert "\n".join(["", head, "|---|---|---|---|---|---|---|---|---|", first, second, ""]) in page


@needs_results
def test_a_report_of_other_results_does_not_replace_that_of_the_repository(tmp_path):
    report = load_benchmark("report")
    some = shutil.copytree(RESULTS / "td3" / "Hopper-v5", tmp_path / "td3" / "Hopper-v5").parents[1]
    for own in ({}, {"out": tmp_path / "docs"}, {"readme": None}):
        message = input_error(report.write_report, report.Options(results=some, **own))
        assert "would replace" in message and "--readme None" in message
    report.write_report(report.Options(results=some, out=tmp_path / "docs", readme=None))
    assert (tmp_path / "docs" / "benchmarks.md").exists()


def test_bf16_is_compared_with_fp32_up_to_equal_steps():
    report = load_benchmark("report")

    def run(*returns):
        steps = np.arange(1, len(returns) + 1) * 100_000
        return {"evaluations": {"global_step": steps, "return_mean": np.array(returns)}}

    cells = {"td3": [run(10.0, 30.0, 999.0)], "td3-bf16": [run(20.0, 40.0), run(40.0, 60.0), run(7.0)]}
    others = {"ddpg": [run(1.0, 2.0)], "sac_drq": [run(1.0)], "sac_drq-bf16": [run(1.0, 2.0)]}
    variant = {"sac_drq-axes": [run(3.0)], "sac_drq-axes-bf16": [run(4.0)]}
    page = "\n".join(
        report.bf16_beside_fp32(
            {"Hopper-v5 from state": cells | others, "CarRacing-v3 from pixels": others | variant}
        )
    )
    assert "| Hopper-v5 from state | TD3 | 200,000 | 20 (1) | 40 [30, 50] (2) | 30 | 50 [40, 60] |" in page
    assert "| CarRacing-v3 from pixels | SAC | 100,000 | 1.0 (1) | 1.0 (1) | 1.0 | 1.0 |" in page
    assert "| CarRacing-v3 from pixels | SAC (axes) | 100,000 | 3.0 (1) | 4.0 (1) | 3.0 | 4.0 |" in page
    assert page.count(" | SAC | ") == 1 and "DDPG" not in page


@needs_results
def test_the_readme_has_finished_cells_alone():
    cells = load_benchmark("cells")
    results, planned = cells.read_results(RESULTS), cells.planned_cells()
    table = re.search(r"\| environment \| PPO.*?\n\n", (ROOT / "README.md").read_text(), re.S)[0]
    shown = 0
    for line in table.strip().splitlines()[2:]:
        heading, *words = (word.strip() for word in line.strip("|").split("|"))
        for name, text in zip(cells.TITLES, words, strict=True):
            if not text:
                continue
            steps, returns = cells.finished(results[heading][name], planned[heading].get(name))
            assert text == f"{cells.number(returns)} ({cells.rounded(steps)})", (heading, name)
            shown += 1
    assert shown >= 10


def test_robustness_is_a_matrix_of_returns_and_goals(tmp_path):
    static, moving = (f"cleanrl_cc/Corridor{walls}-Ant-v0" for walls in ("Static", "Moving"))
    keys = ("algorithm", "seed", "trained_env_id", "env_id", "return_mean", "goals")
    rows = [("sac_drq", 1, static, static, 1000, 0.5), ("sac_drq", 2, static, static, 1200, 1.0)]
    rows += [("sac_drq", 1, static, moving, 300, 0.1), ("ppo_continuous", 1, moving, moving, 40, 0.0)]
    write_result(tmp_path / "results" / "td3" / "My-v0" / "seed-1", 1, [10], total_timesteps=1000)
    write_csv(tmp_path / "results" / "robustness.csv", [dict(zip(keys, row, strict=True)) for row in rows])
    page = written_report(tmp_path).split("## 4. Robustness")[1]
    assert "| Static | SAC | 2 | 1,100 [1,000, 1,200], 75 % | 300, 10 % |" in page
    assert "| Moving | PPO | 1 |  | 40, 0 % |" in page  # what is missing is left out


def test_robots_are_compared_at_equal_steps_between_random_actions_and_the_best_published_score(tmp_path):
    best = max(
        float(row["score"])
        for row in read_csv(ROOT / "benchmark" / "anchors.csv")
        if row["environment"] == "HalfCheetah-v5 from state"
    )
    returns = {"sac_drq": (best, best / 2), "td3": (0, best / 2)}
    for name, (first, second) in returns.items():
        for seed, value in ((1, first), (2, second)):
            folder = tmp_path / "results" / name / "HalfCheetah-v5" / f"seed-{seed}"
            write_result(folder, seed, [7] * 299 + [value, 8], total_timesteps=301_000)
            description = json.loads((folder / "args.json").read_text())
            description["args"]["env_id"] = "HalfCheetah-v5"
            (folder / "args.json").write_text(json.dumps(description))
    random = {"env_id": "HalfCheetah-v5", "episodes": 100, "return_mean": 0, "return_std": 1}
    write_csv(tmp_path / "results" / "baseline.csv", [random])
    section = written_report(tmp_path).split("### Robots at 300,000 steps")[1].split("### ")[0]
    middle, last = (f"{best * share:,.0f}" for share in (0.75, 1))
    assert f"| HalfCheetah-v5 from state | {middle} [{best / 2:,.0f}, {last}] (2) | " in section
    assert "| HalfCheetah-v5 | TD3, Spinning Up (v2) | 7816 | Spinning Up documentation |" in section
    assert "1M" not in section and "CleanRL" not in section  # which published no score after as many
    assert "| SAC | 0.75 [0.50, 1.00] | 2 runs on 1 task |" in section
    assert "| TD3 | 0.25 [0.00, 0.50] | 2 runs on 1 task |" in section
    # three of four pairs are won, and one is a tie
    assert "| SAC above TD3 | 0.88 [0.50, 1.00] | 2 runs on 1 task | 2 runs on 1 task |" in section
