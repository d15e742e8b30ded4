"""The list of commands: each spelling is understood or refused, and no other run's folder is touched."""

import os
from pathlib import Path

import pytest
from helpers import ROOT, contents, input_error, load_benchmark

from cleanrl_cc.common.files import move_aside

tasks = load_benchmark("tasks")


def write(folder: Path, *names: str) -> Path:
    """A folder with files of these names."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def line(flags: str) -> str:
    return f"python cleanrl_cc/td3.py {flags}"


# --- commands ---


@pytest.mark.parametrize(
    "words, value",
    [
        ("--seed 1 --run-name a/b", "a/b"),
        ("--run-name=a/b --seed 1", "a/b"),
        ("--run_name a/b", "a/b"),
        ("--run_name=a/b=c", "a/b=c"),
        ("--run-name a --run-name=b", "b"),
        ("--run-names a", None),
        ("run-name a", None),
        ("--run-name", None),
    ],
)
def test_a_flag_is_found_however_it_is_spelled(words, value):
    assert tasks.flag(words.split(), "run-name") == value


def test_flags_are_left_out_with_their_values():
    words = ["1", "--run_name", "a b", "--seed", "1", "--runs-dir=x", "--training_wrappers", "m:A,b=1", "m:C"]
    kept = tasks.words_without(words, "run-name", "runs-dir")
    assert kept == ["1", "--seed", "1", "--training_wrappers", "m:A,b=1", "m:C"]


@pytest.mark.parametrize(
    "flags, folder",
    [
        ("--run-name td3/a/seed-1", ROOT / "mine/td3/a/seed-1"),
        ("--run-name 'with a space'", ROOT / "mine/with a space"),
        ("--run-name x --runs-dir other", ROOT / "other/x"),
        ("--run-name=x --runs-dir=/other", Path("/other/x")),
        ("--run_name x --runs_dir=../other", ROOT / "../other/x"),
    ],
)
def test_a_run_goes_where_its_command_says(flags, folder):
    assert tasks.read_task(line(flags), "mine").folder == folder


@pytest.mark.parametrize("total, steps", [("5000", 5000), ("1_000_000", 1_000_000), ("1e6", 1_000_000)])
def test_steps_are_read_in_every_notation(total, steps):
    assert tasks.read_task(line(f"--run-name a --total-timesteps {total}"), "runs").total == steps


def test_a_module_is_a_script_too():
    task = tasks.read_task("python -m cleanrl_cc.td3 --seed 1 --run-name a", "runs")
    assert (task.script, task.flags) == (["-m", "cleanrl_cc.td3"], ["--seed", "1", "--run-name", "a"])


@pytest.mark.parametrize(
    "commands, reason",
    [
        ("", "no command on standard input"),
        ("\n \n", "no command on standard input"),
        (line("--seed 1"), "--run-name of its own"),
        (line("--run-name"), "--run-name of its own"),
        ("python", "must be `python SCRIPT"),
        ("python -m", "must be `python SCRIPT"),
        ("python --run-name a", "must be `python SCRIPT"),
        ("CUDA_VISIBLE_DEVICES=1 " + line("--run-name a"), "must be `python SCRIPT"),
        ("torchrun --nproc-per-node 2 cleanrl_cc/ppo_continuous.py --run-name a", "must be `python SCRIPT"),
        ("rm -r --run-name a", "must be `python SCRIPT"),
        (line("--run-name 'a"), "No closing quotation"),
        (line("--run-name a\0b"), "cannot be printed"),
        (line("--run-name a\udcff"), "cannot be printed"),
        (line("--run-name a --resume runs/a"), "leave --resume out"),
        (line("--run-name a --resume=runs/a"), "leave --resume out"),
        (line("--run-name a --total-timesteps many"), "not a number of steps"),
        (line("--run-name a --total-timesteps inf"), "not a number of steps"),
        (line("--run-name ."), "must be a path below --runs-dir"),
        (line("--run-name=./"), "must be a path below --runs-dir"),
        (line("--run-name="), "must be a path below --runs-dir"),
        (line("--run-name .."), "must be a path below --runs-dir"),
        (line("--run_name=new/../../done"), "must be a path below --runs-dir"),
        (line("--run-name /tmp"), "must be a path below --runs-dir"),
        (line("--run-name done"), "holds other runs"),
        (line("--run-name done/a/"), "holds other runs"),
        (line("--run-name policies"), "holds other runs"),
        (line("--run-name done/a/seed-1/again"), "lies inside another run"),
        (line("--run-name inner --runs-dir {runs}/done/a/seed-1"), "lies inside another run"),
        (line("--run-name link/inner"), "lies inside another run"),
        (line("--run-name up"), "holds other runs"),
        (line("--run-name a") + "\n" + line("--run-name a"), "--run-name of its own"),
        (line("--run-name a/b") + "\n" + line("--run-name=./a//b/"), "--run-name of its own"),
        (line("--run-name a") + "\n" + line("--run_name a --runs_dir={runs}"), "--run-name of its own"),
        (line("--run-name link") + "\n" + line("--run-name done/a/seed-1"), "--run-name of its own"),
        (line("--run-name a") + "\n" + line("--run-name a/b"), "lies inside another run"),
        (line("--run-name a/b/c") + "\n" + line("--run-name a"), "lies inside another run"),
    ],
)
def test_what_could_meet_another_run_is_refused_in_one_sentence(commands, reason, tmp_path):
    runs = tmp_path / "runs"
    write(runs / "done/a/seed-1", "args.json", "last.pt")
    write(runs / "policies/b", "best.pt")
    os.symlink("done/a/seed-1", runs / "link")
    os.symlink("done", runs / "up")
    before = contents(runs)
    assert reason in input_error(tasks.read_tasks, commands.replace("{runs}", str(runs)), str(runs))
    assert contents(runs) == before


def test_a_list_of_runs_side_by_side_is_taken(tmp_path):
    write(tmp_path / "td3/a/seed-1", "args.json", "last.pt", "videos/step-1.mp4")
    names = ["td3/a/seed-1", "td3/a/seed-2", "td3/a/seed-1-b", "sac_drq/a/seed-1"]
    found = tasks.read_tasks("\n".join(line(f"--run-name {name}") for name in names), str(tmp_path))
    assert [task.name for task in found] == names


# --- folders without a checkpoint ---


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["args.json"],
        ["args.json", "progress.csv", "events.out.tfevents.1.host.2.0", "videos/step-00000100.mp4"],
        ["args.json", "replay-1000.npz.tmp", "last.pt.tmp", "wandb/run-1/files/config.yaml"],
    ],
)
def test_what_a_killed_run_left_is_kept_beside_the_new_run(names, tmp_path):
    for number in (1, 2):
        folder = write(tmp_path / "a.b", *names)
        folder.mkdir(exist_ok=True)
        before = contents(folder)
        aside = move_aside(folder)
        assert aside == tmp_path / f"a.b.stopped-{number}"
        assert (folder.exists(), contents(aside)) == (False, before)


@pytest.mark.parametrize(
    "names",
    [
        ["args.json", "best.pt"],
        ["args.json", "replay-1000.npz"],
        ["args.json", "evaluations.csv"],
        ["args.json", "notes.txt"],
        ["args.json", "videos/mine.txt"],
        ["args.json", "data/x"],
        ["progress.csv"],
        ["seed-1.log"],
    ],
)
def test_what_may_be_anything_else_stays_where_it_is(names, tmp_path):
    folder = write(tmp_path / "a", *names)
    assert "holds" in input_error(move_aside, folder)
    assert sorted(contents(folder)) == sorted(names) and os.listdir(tmp_path) == ["a"]


def test_links_and_files_stay_where_they_are(tmp_path):
    write(tmp_path / "elsewhere", "args.json")
    os.symlink("elsewhere", tmp_path / "link")
    os.symlink("nowhere", tmp_path / "dangling")
    write(tmp_path, "file")
    before = sorted(os.listdir(tmp_path))
    for name in ("link", "dangling", "file"):
        assert "is not a folder" in input_error(move_aside, tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == before
