"""What is told of runs: from their files alone, however damaged, and from the processes of this machine."""

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import load_benchmark

overview = load_benchmark("overview")

PROGRESS = "global_step,seconds,losses/q,charts/sps\n1000,10.0,,\n2000,30.0,0.5,50.0\n3000,50.0,0.5,55.0\n"
EVALUATIONS = "global_step,seconds,return_mean\n1000,10.0,7.5\n2000,30.0,9.0\n"
ALL_EVALUATIONS = EVALUATIONS + "10000,70.0,8.0\n"
COMMAND = "cleanrl_cc/td3.py --run-name a"


def write_run(folder: Path, files: dict[str, str]) -> Path:
    """Files written one after the other, each a second younger than the one before."""
    folder.mkdir(parents=True, exist_ok=True)
    args = {"total_timesteps": 10_000, "runs_dir": ".", "resume": None}
    description = {"args": args, "commands": [f"python {COMMAND}"]}
    for age, (name, text) in enumerate(({"args.json": json.dumps(description)} | files).items()):
        (folder / name).write_text(text)
        os.utime(folder / name, (time.time() - 100 + age,) * 2)
    return folder


# --- files ---


@pytest.mark.parametrize(
    "state, files",
    [
        ("no checkpoint", {}),
        ("no checkpoint", {"progress.csv": PROGRESS, "evaluations.csv": EVALUATIONS, "best.pt": ""}),
        ("stopped", {"last.pt": ""}),
        ("stopped", {"evaluations.csv": EVALUATIONS, "last.pt": "never read"}),
        ("stopped", {"last.pt": "", "evaluations.csv": ALL_EVALUATIONS}),  # killed before the last save
        ("finished", {"evaluations.csv": ALL_EVALUATIONS, "last.pt": ""}),
        ("unreadable", {"args.json": "{"}),
        ("unreadable", {"args.json": "[1]"}),
        ("unreadable", {"args.json": '{"args": {"total_timesteps": "many"}, "commands": []}'}),
        ("unreadable", {"args.json": "\0\0", "evaluations.csv": EVALUATIONS, "last.pt": ""}),
    ],
)
def test_the_state_of_a_run_is_that_of_its_files(state, files, tmp_path):
    assert overview.read_status(write_run(tmp_path / "a", files), []).state == state


def test_a_run_tells_step_speed_scores_size_and_time_left(tmp_path):
    files = {"progress.csv": PROGRESS, "evaluations.csv": EVALUATIONS, "last.pt": "x" * 10**6}
    status = overview.read_status(write_run(tmp_path / "a", files), [])
    assert (status.step, status.total, status.sps) == (3000, 10_000, 55)
    assert (status.evaluation, status.best) == (9.0, 9.0)
    assert status.left == pytest.approx(7000 * 50 / 3000)
    assert 1.0e6 < status.disk < 1.01e6 and 90 < status.changed < 100
    heading, line = overview.table([("a", status)])
    assert heading.split() == overview.HEAD
    assert "stopped  3,000 of 10,000       55  2 min         9.0   9.0       -  1.0 MB  2 min ago" in line


@pytest.mark.parametrize(
    "text, rows",
    [
        ("", []),
        ("a,b", []),
        ("a,c\n1,2\n", []),
        ("a,b\n1,2\n3,", [[1, 2]]),
        ("a,b\n1,2\n3,4", [[1, 2]]),
        ("a,b\n1,2,3\n4\n5,6\n", [[5, 6]]),
        ("a,b\n1,x\n\0\0\0\n5,6\n", [[5, 6]]),
        ("c,b,a\n1,2,3\n", [[3, 2]]),
    ],
)
def test_torn_and_foreign_lines_are_left_out(text, rows, tmp_path):
    (tmp_path / "progress.csv").write_text(text)
    assert overview.read_columns(tmp_path / "progress.csv", ["a", "b"]) == rows


def test_an_empty_cell_is_nan_and_a_missing_file_has_no_rows(tmp_path):
    (tmp_path / "progress.csv").write_text("a,b\n1,\n")
    assert math.isnan(overview.read_columns(tmp_path / "progress.csv", ["b"])[0][0])
    assert overview.read_columns(tmp_path / "no.csv", ["b"]) == []


def test_only_the_end_of_a_long_file_is_read(tmp_path):
    lines = [f"{step},{step}\n" for step in range(1, 100_000)]
    (tmp_path / "progress.csv").write_text("".join(["a,b\n", *lines]))
    rows = overview.read_columns(tmp_path / "progress.csv", ["a", "b"], tail_bytes=1000)
    assert rows[-1] == [99_999, 99_999] and 80 < len(rows) < 90
    assert all(a == b > 99_000 for a, b in rows)


def test_runs_are_listed_by_name_wherever_they_are(tmp_path):
    for name in ("td3/b/seed-1", "td3/a/seed-1", "single"):
        write_run(tmp_path / name, {})
    (tmp_path / "logs").mkdir()
    assert [name for name, _ in overview.read_runs(tmp_path)] == ["single", "td3/a/seed-1", "td3/b/seed-1"]


@pytest.mark.parametrize(
    "seconds, text",
    [(math.nan, "-"), (0, "0 s"), (89, "89 s"), (120, "2 min"), (7200, "2.0 h"), (3e5, "3.5 d")],
)
def test_durations_are_told_in_a_unit_one_can_read(seconds, text):
    assert overview.duration(seconds) == text


# --- processes ---


@pytest.fixture
def sleeper():
    """Starts a process that sleeps, with words on its command line, and ends it."""
    processes = []

    def start(*words: str, **options) -> subprocess.Popen:
        code = "import sys, time; print(flush=True); time.sleep(100)"
        processes.append(subprocess.Popen([sys.executable, "-c", code, *words], **options))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


def test_a_run_is_running_while_a_process_writes_its_log(tmp_path, sleeper):
    folder = write_run(tmp_path / "a", {"last.pt": ""})
    with open(overview.log_file(folder), "a") as log:
        process = sleeper(stdout=log)
    ((_, status),) = overview.read_runs(tmp_path)
    assert status.state == "running" and status.memory > 1e6
    process.kill()
    process.wait()
    ((_, status),) = overview.read_runs(tmp_path)
    assert status.state == "stopped" and math.isnan(status.memory)


def test_who_only_reads_a_run_does_not_run_it(tmp_path, sleeper):
    folder = write_run(tmp_path / "a", {"last.pt": ""})
    overview.log_file(folder).touch()
    with open(overview.log_file(folder)) as log, open(folder / "last.pt") as checkpoint:
        sleeper(stdin=log, stderr=checkpoint, stdout=subprocess.DEVNULL)
    assert overview.read_runs(tmp_path)[0][1].state == "stopped"


@pytest.mark.parametrize(
    "words, cwd, age, state",  # of args.json, in seconds
    [
        (COMMAND, ".", -60, "running"),
        (COMMAND, ".", 60, "stopped"),
        (COMMAND, "elsewhere", -60, "stopped"),
        ("other", ".", -60, "stopped"),
    ],
)
def test_a_run_started_by_hand_is_known_by_its_command(words, cwd, age, state, tmp_path, sleeper):
    (tmp_path / "elsewhere").mkdir()
    sleeper(*words.split(), stdout=subprocess.DEVNULL, cwd=tmp_path / cwd)
    folder = write_run(tmp_path / "a", {"last.pt": ""})
    os.utime(folder / "args.json", (time.time() - age,) * 2)
    assert overview.read_runs(tmp_path)[0][1].state == state


# --- while runs run ---


@pytest.fixture
def board(monkeypatch):
    monkeypatch.setattr(overview, "LOOK_SECONDS", 0)
    return overview.Board()


def test_a_shortage_of_memory_is_told_once_and_again_when_it_comes_back(board, capsys, monkeypatch):
    taken = overview.resident_bytes([overview.psutil.Process()])
    warnings = []
    for free in (1.0, 0.05, 0.05, 0.15, 0.05, 1.0, 0.05):  # of what the run takes
        monkeypatch.setattr(overview, "free_memory", lambda free=free: free * taken)
        board.show([], [("a", Path("nowhere"), os.getpid())], "0 of 1 done", "running")
        warnings.append(capsys.readouterr().out.count("Warning: the runs take"))
    assert warnings == [0, 1, 0, 0, 0, 0, 1]


def test_without_a_terminal_the_table_comes_now_and_then(board, capsys, tmp_path, monkeypatch):
    running = [("a", write_run(tmp_path / "a", {"progress.csv": PROGRESS}), os.getpid())]
    board.show(["news"], running, "0 of 1 done", "running")
    assert capsys.readouterr().out == "news\n"
    monkeypatch.setattr(overview, "PRINT_SECONDS", 0)
    board.show([], running, "0 of 1 done", "running")
    heading, line, summary = capsys.readouterr().out.splitlines()
    assert line.startswith("a    running  3,000 of 10,000")
    assert summary.startswith("0 of 1 done, 1 running; memory: ")


def test_on_a_terminal_the_table_is_overwritten_and_fits(board, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(overview.shutil, "get_terminal_size", lambda: os.terminal_size((40, 5)))
    board.terminal = True
    for number, height in ((1, 3), (9, 4)):  # heading, runs and summary; the screen has a line more
        running = [(f"run-{index}", tmp_path, os.getpid()) for index in range(number)]
        erased = board.height
        board.show(["news"], running, "0 of 9 done", "running")
        text = capsys.readouterr().out
        assert text.startswith(f"\x1b[{erased}A\x1b[Jnews\n" if erased else "news\n")
        table = text.split("news\n")[1].splitlines()
        assert len(table) == height == board.height and max(map(len, table)) < 40
    board.clear()
    assert capsys.readouterr().out == "\x1b[4A\x1b[J"
