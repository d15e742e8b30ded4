"""Benchmarks: speeds, peers, reports rebuilt, policies exported."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT, load_benchmark, load_script, needs_results, train

from cleanrl_cc.common.arguments import preset_args
from cleanrl_cc.common.checkpoints import load_checkpoint
from cleanrl_cc.common.tables import read_csv
from cleanrl_cc.evaluate import Options, evaluate

RESULTS = ROOT / "benchmark" / "results"


# --- speed.py, peer_curve.py ---


def test_speed_is_measured_over_the_same_steps_for_all():
    speed = load_benchmark("speed")
    task = {"first": 1000, "steps": 3000 - speed.WARMUP}
    clock = [(step, step / 50) for step in range(0, 3001, 100)]
    # a rollout that no update follows
    beyond = [(step, 60 + (step - 3000) / 500) for step in range(3100, 4001, 100)]
    assert (
        speed.steps_per_second(clock, task)
        == speed.steps_per_second(clock + beyond, task)
        == pytest.approx(50)
    )


@needs_results
def test_a_peer_is_trained_and_evaluated_in_a_file_that_grows(tmp_path):
    peer_curve, file = load_benchmark("peer_curve"), tmp_path / "peers.csv"
    for seed in (1, 2):
        # random actions all along
        peer_curve.main(peer_curve.Options(csv=str(file), seed=seed, total_timesteps=10_000))
    rows = read_csv(file)
    assert [(row["seed"], row["global_step"]) for row in rows] == [("1", "10000"), ("2", "10000")]
    assert list(rows[0]) == list(read_csv(RESULTS / "td3-peers.csv")[0])


def test_speed_is_measured_with_networks_of_the_peers_width():
    for name, task in load_benchmark("speed").TASKS.items():
        if task["policy"] == "MlpPolicy":
            script = load_script(task["script"])
            preset = preset_args(script.Args, script.PRESETS, task["script_env"])
            peer_width = 64 if task["peer"] == "PPO" else 256  # Stable-Baselines3's and SBX's own
            assert task["ours"].get("hidden_dim", preset.hidden_dim) == peer_width, name


# --- report.py, collect.py, zoo.py ---


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
    args = {"env_id": "My-v0", "obs": "auto", "seed": seed, "total_timesteps": total_timesteps}
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
            json.dumps({"global_step": 3000, "return_mean": 7, "episodes": [0] * 20})
        )
    page = written_report(tmp_path)
    assert (
        "python cleanrl_cc/sac_drq.py --env-id My-v0 --seed 1 --total-timesteps 3000 --no-random-shift\n"
        in page
    )
    table = page.split("## Ablation: My-v0 from state")[1].split("## ")[0]
    assert (
        "| x | 3 | 3,000 | 150 [50, 250] | 200 [100, 300] | 7.0 [7.0, 7.0] (20 episodes) | - | 0.3 |" in table
    )
    missing = "DDPG, PPO, SAC, TD3, PPO (constant rate), PPO (linear)"
    assert f"| LunarLander-v3 from state | {missing} |" in page.split("## Not yet run")[1]


def test_of_seeds_that_were_stopped_the_report_says_how_far_each_extreme_came(tmp_path):
    for seed, returns in {1: [10, 20], 2: [20, 30, 40, 50], 3: [30, 40, 60]}.items():
        write_result(
            tmp_path / "results" / "sac_drq" / "My-v0" / f"seed-{seed}", seed, returns, total_timesteps=9000
        )
    page = written_report(tmp_path)
    assert "| SAC | 3 | 2,000 to 4,000 of 9,000 | 43 [20, 60] | 43 [20, 60] | - | - | 0.3 |" in page
    assert "| My-v0 from state |  | - (2k to 4k of 9k) |" in page


def test_an_interval_covers_what_it_should():
    interval, rng = load_benchmark("report").interval, np.random.default_rng(1)
    covered = [low < 0 < high for low, high in (interval(rng.normal(size=20)) for _ in range(50))]
    assert 0.86 < np.mean(covered) < 1


@pytest.mark.parametrize(
    "text, expected",
    [
        (
            "python /home/me/cleanrl_cc/cleanrl_cc/td3.py --runs-dir /data/runs/x",
            "python cleanrl_cc/td3.py --runs-dir runs/x",
        ),
        (
            '{"resume": "/data/elsewhere/seed-1", "env_id": "dm_control/a"}',
            '{"resume": "seed-1", "env_id": "dm_control/a"}',
        ),
        (
            "python cleanrl_cc/td3.py --run-name td3/a/seed-1",
            "python cleanrl_cc/td3.py --run-name td3/a/seed-1",
        ),
    ],
)
def test_paths_of_this_machine_are_left_out(text, expected):
    assert load_benchmark("collect").without_machine_paths(text) == expected


def test_no_committed_result_names_a_machine_path():
    for path in RESULTS.rglob("*.json"):
        assert load_benchmark("collect").without_machine_paths(path.read_text()) == path.read_text(), path


def test_a_run_is_collected_and_its_exported_policy_scores_the_same(tmp_path):
    folder = tmp_path / "runs" / "ablation-a" / "LunarLander-v3" / "seed-7"
    changes = {"env_id": "LunarLander-v3", "seed": 7, "eval_frequency": 150, "runs_dir": tmp_path / "runs"}
    train("sac_drq", folder, **changes, run_name="ablation-a/LunarLander-v3/seed-7")
    collect, zoo = load_benchmark("collect"), load_benchmark("zoo")
    target = collect.collect(folder, collect.Options((folder,), episodes=2, results=tmp_path / "results"))
    assert target == tmp_path / "results" / "ablation-a" / "LunarLander-v3" / "seed-7"
    assert str(tmp_path) not in "".join(path.read_text() for path in target.iterdir())
    best = load_checkpoint(folder / "best.pt")
    scores = {path.name: json.loads(path.read_text()) for path in target.glob("episodes-*.json")}
    assert set(scores) == {f"episodes-{best['global_step']}.json", "episodes-300.json"}
    variant = collect.collect(
        folder, collect.Options((folder,), name="sac_drq-b", results=tmp_path / "results")
    )
    assert variant == tmp_path / "results" / "sac_drq-b" / "LunarLander-v3" / "seed-7"

    options = zoo.Options(episodes=2, zoo=tmp_path / "zoo", table=tmp_path / "zoo.md")
    zoo.export(best, options)
    zoo.write_table(options)
    exported = load_checkpoint(tmp_path / "zoo" / "sac_drq-LunarLander-v3.pt")
    assert set(exported) == {"algorithm", "args", "recipe", "global_step", "agent"}
    assert str(tmp_path) not in repr(exported)
    score = evaluate(
        Options(checkpoint=str(tmp_path / "zoo" / "sac_drq-LunarLander-v3.pt"), episodes=2, device="cpu")
    )
    assert score["episodes"] == scores[f"episodes-{best['global_step']}.json"]["episodes"]
    assert f"| {score['return_mean']:,.1f} |" in (tmp_path / "zoo.md").read_text()


@pytest.mark.parametrize("script", ["td3", "dqn_atari_style", "rainbow"])
def test_an_exported_policy_has_no_target_network_of_its_own_and_half_precision_where_it_is_large(
    script, monkeypatch, tmp_path
):
    zoo, folder = load_benchmark("zoo"), tmp_path / "run"
    env_id = "LunarLander-v3" if script == "td3" else "CartPole-v1"
    train(script, folder, env_id=env_id, eval_frequency=150, runs_dir=tmp_path)
    checkpoint = load_checkpoint(folder / "best.pt")
    options = zoo.Options(episodes=1, zoo=tmp_path / "zoo", table=tmp_path / "zoo.md")
    for most in (8e6, 0):
        monkeypatch.setattr(zoo, "MAX_BYTES", most)
        zoo.export(checkpoint, options)
        (file,) = options.zoo.glob("*.pt")
        weights = load_checkpoint(file)["agent"]
        assert set(weights) == set(checkpoint["agent"])
        twins = {name for name in weights if "_target." in name}
        online = {weight.data_ptr() for name, weight in weights.items() if name not in twins}
        assert twins and {weights[name].data_ptr() for name in twins} <= online
        assert {weight.dtype for weight in weights.values()} == {torch.float32 if most else torch.float16}


def test_scores_stay_with_the_run_that_they_are_of(tmp_path):
    collect, run = load_benchmark("collect"), tmp_path / "run"
    options = collect.Options((run,), results=tmp_path / "results")
    run.mkdir()
    (run / "args.json").write_text(
        json.dumps({"algorithm": "td3", "args": {"env_id": "My-v0", "seed": 1, "run_name": None}})
    )
    for evaluations, kept in [("1000,7\n", False), ("1000,7\n2000,8\n", True), ("1000,6\n2000,8\n", False)]:
        (run / "evaluations.csv").write_text("global_step,return_mean\n" + evaluations)
        target = collect.collect(run, options)
        assert (target / "episodes-1000.json").exists() == kept, (
            "a run that went on keeps its scores, another's are none of its"
        )
        (target / "episodes-1000.json").write_text("{}")


def test_policies_from_pixels_and_from_the_state_do_not_share_a_file():
    zoo, recipe = load_benchmark("zoo"), {"env_id": "dm_control/walker-walk-v0"}
    cells = [
        zoo.cell({"algorithm": "td3", "recipe": recipe | {"obs": obs}}) for obs in ("auto", "state", "pixels")
    ]
    assert cells == ["td3-dm_control-walker-walk-v0"] * 2 + ["td3-dm_control-walker-walk-v0-pixels"]


@needs_results
def test_the_zoo_is_small_and_its_table_is_generated(tmp_path):
    sizes = [path.stat().st_size for path in (ROOT / "zoo").glob("*.pt")]
    assert max(sizes) < 8e6 and sum(sizes) < 60e6
    assert sorted(path.stem for path in (ROOT / "zoo").glob("*.pt")) == sorted(
        path.stem for path in (ROOT / "zoo").glob("*.json")
    )
    zoo = load_benchmark("zoo")
    zoo.write_table(zoo.Options(table=tmp_path / "zoo.md"))
    assert (tmp_path / "zoo.md").read_bytes() == (ROOT / "docs" / "zoo.md").read_bytes(), (
        "run benchmark/zoo.py"
    )
