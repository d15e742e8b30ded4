"""What is copied of a run, and what is not."""

import json
from itertools import pairwise

import pytest
from helpers import ROOT, load_benchmark, needs_results, train

from cleanrl_cc.common.checkpoints import load_checkpoint
from cleanrl_cc.evaluate import Options, evaluate


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
    for path in (ROOT / "benchmark" / "results").rglob("*.json"):
        assert load_benchmark("collect").without_machine_paths(path.read_text()) == path.read_text(), path


@pytest.mark.slow
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


def test_scores_stay_with_the_run_that_they_are_of(tmp_path):
    collect, run = load_benchmark("collect"), tmp_path / "run"
    options = collect.Options((run,), results=tmp_path / "results")
    run.mkdir()
    (run / "args.json").write_text(
        json.dumps({"algorithm": "td3", "args": {"env_id": "My-v0", "seed": 1, "run_name": None}})
    )
    for evaluations, kept in [
        ("1000,7,0,3\n", False),
        ("1000,7,0,3\n2000,8,0,6\n", True),
        ("1000,6,0,3\n2000,8,0,6\n", False),
    ]:
        (run / "evaluations.csv").write_text("global_step,return_mean,return_std,seconds\n" + evaluations)
        target = collect.collect(run, options)
        assert (target / "episodes-1000.json").exists() == kept, (
            "a run that went on keeps its scores, another's are none of its"
        )
        (target / "episodes-1000.json").write_text("{}")


def test_what_a_run_left_that_began_again_is_not_collected_in_its_place(tmp_path):
    collect = load_benchmark("collect")
    description = {"algorithm": "td3", "args": {"env_id": "My-v0", "seed": 1, "run_name": "td3/My-v0/seed-1"}}
    for name in ("seed-1", "seed-1.stopped-1"):
        folder = tmp_path / "td3" / "My-v0" / name
        folder.mkdir(parents=True)
        (folder / "args.json").write_text(json.dumps(description))
        (folder / "evaluations.csv").write_text(f"global_step,return_mean\n1000,{len(name)}\n")
    assert collect.find_runs((tmp_path,)) == [tmp_path / "td3" / "My-v0" / "seed-1"]
    assert collect.find_runs((folder,)) == [folder]


def test_nothing_of_another_run_stays_beside_a_collected_one(tmp_path):
    collect = load_benchmark("collect")
    description = {"algorithm": "td3", "args": {"env_id": "My-v0", "seed": 1, "run_name": None}}
    for name in ("long", "short"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "args.json").write_text(json.dumps(description))
        evaluations = "global_step,return_mean,return_std,seconds\n10,7,0,3\n"
        (tmp_path / name / "evaluations.csv").write_text(evaluations)
    (tmp_path / "long" / "progress.csv").write_text("global_step\n1000\n")
    options = collect.Options((), results=tmp_path / "results")
    assert (collect.collect(tmp_path / "long", options) / "progress.csv").exists()
    assert not (collect.collect(tmp_path / "short", options) / "progress.csv").exists()


def test_progress_is_thinned_to_evenly_spaced_lines_with_the_first_and_the_last():
    thinned = load_benchmark("collect").thinned
    rows = [{"global_step": str(step)} for step in range(1, 3001)]
    kept = [int(row["global_step"]) for row in thinned(rows)]
    assert len(kept) == 500 and kept[0] == 1 and kept[-1] == 3000
    assert {after - before for before, after in pairwise(kept)} <= {6, 7}
    assert thinned(rows[:500]) == rows[:500] and thinned(rows[:1]) == rows[:1] and thinned([]) == []


@needs_results
def test_the_results_are_small():
    files = [path for path in (ROOT / "benchmark" / "results").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 20e6
    assert all(path.read_bytes().count(b"\n") <= 501 for path in files if path.name == "progress.csv")
