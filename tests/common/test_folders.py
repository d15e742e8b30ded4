"""Every run has a folder of its own, and takes nobody else's."""

import json
import re
import signal
import time

import pytest
from helpers import (
    SCRIPTS,
    Fork,
    command_line,
    contents,
    input_error,
    load_script,
    parse,
    resume,
    stop,
    train,
)

from cleanrl_cc.common.folders import new_folder
from cleanrl_cc.sac_drq import Args


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_run_name_that_exists_is_refused_and_nothing_is_overwritten(script, tmp_path):
    train(script, tmp_path / "run", total_timesteps=60)
    before = contents(tmp_path)
    message = input_error(train, script, tmp_path / "run", total_timesteps=60)
    assert "--run-name" in message and "--resume" in message
    assert contents(tmp_path) == before


def test_runs_that_start_in_the_same_second_get_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "strftime", lambda *_: "20260101-000000")
    for _ in range(2):
        words = command_line(SCRIPTS[0], tmp_path / "run", total_timesteps=20)
        index = words.index("--run-name")
        load_script(SCRIPTS[0]).train(parse(SCRIPTS[0], words[:index] + words[index + 2 :]))
    name = f"Pendulum-v1__{SCRIPTS[0]}__1__20260101-000000"
    assert {path.name for path in tmp_path.iterdir()} == {name, f"{name}-2"}
    assert all((path / "last.pt").exists() for path in tmp_path.iterdir())


def test_a_run_folder_s_name_has_no_colon(tmp_path):
    folder = new_folder(Args(env_id="odd_envs:Walk-v0", runs_dir=str(tmp_path)), "sac_drq")
    assert not re.search(r'[<>:"|?*\\]', folder.name)


# --- folders without a checkpoint ---


@pytest.mark.parametrize(
    "last_file, changes",
    [
        ("args.json", {}),
        ("best.pt", {"eval_frequency": 100, "checkpoint_frequency": 10**5}),
        ("policy-100.pt", {"eval_frequency": 100, "checkpoint_frequency": 10**5, "keep_policies": True}),
    ],
)
def test_a_run_that_died_before_its_first_checkpoint_begins_again(last_file, changes, tmp_path, capsys):
    folder = tmp_path / "run"
    died = Fork("td3", command_line("td3", folder, total_timesteps=10**6, **changes))
    stop(died, signal.SIGKILL, folder / last_file)
    assert "--run-name" in input_error(resume, "td3", folder)
    before = contents(folder)
    train("td3", folder)
    assert "had no checkpoint" in capsys.readouterr().err
    assert contents(tmp_path / "run.stopped-1").keys() == before.keys()
    assert (folder / "last.pt").exists()


def test_a_policy_whose_checkpoint_was_deleted_stays_where_it_is(tmp_path):
    train("td3", tmp_path / "run", total_timesteps=200, checkpoint_frequency=100, eval_frequency=100)
    (tmp_path / "run" / "last.pt").unlink()
    for replay in (tmp_path / "run").glob("replay-*"):
        replay.unlink()
    before = contents(tmp_path)
    assert "best.pt" in input_error(train, "td3", tmp_path / "run")
    assert contents(tmp_path) == before


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "run").mkdir()
    train("td3", tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_folder_of_a_run_that_never_began_is_taken(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.lock").touch()  # its first reset failed, or was not over when it was killed
    train("td3", tmp_path / "run")
    assert (tmp_path / "run" / "last.pt").exists()


def test_what_someone_has_put_beside_a_run_stays(tmp_path):
    folder = tmp_path / "run"
    train("td3", folder, total_timesteps=60)
    (folder / "replay-films").mkdir()
    for name in ("replay-best.mp4", "replay-60.npz.bak"):
        (folder / name).write_text("mine")
    (folder / "replay-61.npz.tmp").write_text("of a run that was killed")
    resume("td3", folder, total_timesteps=80)
    names = {path.name for path in folder.glob("replay-*")}
    assert names == {"replay-80.npz", "replay-films", "replay-best.mp4", "replay-60.npz.bak"}


@pytest.mark.parametrize("text", ["[1]", "null", '{"commands": null}', "{", ""])
def test_a_run_goes_on_whatever_its_description_says(text, tmp_path):
    folder = tmp_path / "run"
    train("td3", folder, total_timesteps=60)
    (folder / "args.json").write_text(text)
    resume("td3", folder, total_timesteps=80)
    assert len(json.loads((folder / "args.json").read_text())["commands"]) == 1


def test_a_folder_of_anything_else_is_refused(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    message = input_error(train, "td3", tmp_path / "run")
    assert "notes.txt" in message and "--run-name" in message
    assert contents(tmp_path) == {"run/notes.txt": b"mine"}
