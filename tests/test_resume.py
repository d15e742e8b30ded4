"""A run that was stopped goes on as if it had not been, bit for bit; and nothing
that watches the training changes it."""

import os
import shlex
import signal
import tarfile

import pytest
import torch
from helpers import (
    PIXELS,
    ROOT,
    SCRIPTS,
    Fork,
    assert_same_runs,
    assert_same_training,
    begin,
    checkpoint,
    command_line,
    having,
    resume,
    stop,
    survivors,
    train,
)

from cleanrl_cc.common.checkpoints import save_checkpoint
from cleanrl_cc.common.tables import read_csv

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("short_laps")]

# Long enough that the process still trains when the signal arrives, which is
# sent as soon as there is a checkpoint.
PROBLEMS = {
    "LunarLander": {
        "env_id": "LunarLander-v3",
        "total_timesteps": 800,
        "eval_frequency": 350,
        "checkpoint_frequency": 130,
    },
    "3 Hoppers": {
        "env_id": "Hopper-v5",
        "total_timesteps": 1200,
        "num_envs": 3,
        "eval_frequency": 500,
        "checkpoint_frequency": 130,
    },
    "CarRacing": PIXELS | {"total_timesteps": 160, "checkpoint_frequency": 60},
}
MANY = {
    "64 walkers": {
        "env_id": "odd_envs:Walk-v0",
        "total_timesteps": 5000,
        "num_envs": 64,
        "num_steps": 16,
        "eval_frequency": 2000,
        "checkpoint_frequency": 600,
    },
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The folder of a whole run, made once per script and problem."""
    folders = {}

    def run(script, problem):
        if (script, problem) not in folders:
            folders[script, problem] = tmp_path_factory.mktemp("uninterrupted") / "run"
            train(script, folders[script, problem], **(PROBLEMS | MANY)[problem])
        return folders[script, problem]

    return run


# All scripts share what answers a signal, and what holds the environments: one of them gets every kind.
STOPS = [(script, problem, signal.SIGKILL, False) for script in SCRIPTS for problem in PROBLEMS]
STOPS += [("sac_drq", "LunarLander", number, False) for number in (signal.SIGTERM, signal.SIGINT)]
STOPS += [("sac_drq", "3 Hoppers", signal.SIGINT, True)]  # Ctrl-C in a terminal reaches the workers too
STOPS += [("ppo_continuous", "3 Hoppers", signal.SIGTERM, False)]  # in the middle of a rollout
STOPS += [(script, "64 walkers", signal.SIGKILL, False) for script in ("rainbow", "ppo_continuous")]


@pytest.mark.parametrize("script, problem, number, whole_group", STOPS)
def test_a_stopped_run_goes_on_bit_for_bit(script, problem, number, whole_group, uninterrupted, tmp_path):
    folder = tmp_path / "run"
    fields = (PROBLEMS | MANY)[problem]
    starts = Fork if problem == "CarRacing" else begin  # a child, whose laps are short
    process = starts(script, command_line(script, folder, **fields))
    code, stderr = stop(process, number, folder / "last.pt", whole_group)
    assert survivors(process) == []
    assert checkpoint(folder)["global_step"] < fields["total_timesteps"]
    if number == signal.SIGKILL:
        assert code == -signal.SIGKILL
    else:
        assert code == 128 + number, stderr
        command = next(line for line in stderr.splitlines() if "--resume" in line)
        assert shlex.split(command)[-2:] == ["--resume", str(folder)]
    resume(script, folder)
    assert_same_runs(folder, uninterrupted(script, problem))


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("num_envs", [1, 2])
@pytest.mark.parametrize("episodes", [3, 3.5], ids=["after an episode's last step", "in an episode"])
def test_a_grown_run_equals_a_longer_one(script, num_envs, episodes, tmp_path):
    # After its last step an environment waits for its reset: Gymnasium keeps
    # that flag where no snapshot reaches it.
    # Pendulum never rewards: all training episodes are 40 steps long
    short = {"num_envs": num_envs, "training_wrappers": ("Patience,frames=40",)}
    steps, more = int(40 * num_envs * episodes), 100 * num_envs
    train(script, tmp_path / "grown", total_timesteps=steps, **short)
    assert {env["ended"] for env in checkpoint(tmp_path / "grown")["envs"]} == {episodes == 3}
    resume(script, tmp_path / "grown", total_timesteps=steps + more)
    train(script, tmp_path / "direct", total_timesteps=steps + more, **short)
    assert_same_training(tmp_path / "grown", tmp_path / "direct")


@pytest.mark.parametrize("script", having("buffer_size"))
def test_a_process_killed_while_it_saves_leaves_a_matching_pair(script, tmp_path):
    train(script, tmp_path / "killed", total_timesteps=250)
    (tmp_path / "killed" / "replay-300.npz").write_bytes(b"renamed, but last.pt was not")
    for name in ("last.pt.tmp", "replay-400.npz.tmp"):
        (tmp_path / "killed" / name).write_bytes(b"half a file")
    resume(script, tmp_path / "killed", total_timesteps=350)
    train(script, tmp_path / "direct", total_timesteps=350)
    assert_same_training(tmp_path / "killed", tmp_path / "direct")
    names = {path.name for path in (tmp_path / "killed").iterdir()}
    assert names & {"replay-250.npz", "replay-300.npz", "last.pt.tmp", "replay-400.npz.tmp"} == set(), (
        "leftovers fill the disk"
    )


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("renames", [0, 1])
def test_a_process_that_ends_between_two_renames_leaves_a_matching_pair(
    script, renames, tmp_path, monkeypatch
):
    train(script, tmp_path / "run", total_timesteps=60)
    replace, done = os.replace, []

    def cut(source, target):
        if target.name.startswith(("replay-", "last.pt")):
            if len(done) == renames:
                raise KeyboardInterrupt
            done.append(target)
        replace(source, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", cut)
        resume(script, tmp_path / "run", total_timesteps=80)
    resume(script, tmp_path / "run", total_timesteps=100)
    train(script, tmp_path / "direct", total_timesteps=100)
    assert_same_training(tmp_path / "run", tmp_path / "direct")


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_run_of_an_earlier_version_goes_on(script, tmp_path):
    with tarfile.open(ROOT / "tests" / "data" / "runs-0.1.0.tar.xz") as archive:
        archive.extractall(tmp_path, [member for member in archive if member.name.startswith(f"{script}/")])
    before = checkpoint(tmp_path / script)
    resume(script, tmp_path / script, total_timesteps=150)
    after = checkpoint(tmp_path / script)
    assert (before["global_step"], after["global_step"]) == (90, 150)
    assert 0 < before["num_updates"] < after["num_updates"]
    rows = read_csv(tmp_path / script / "progress.csv")
    assert [row["global_step"] for row in rows] == ["90", "150"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_only_records_may_change_when_a_run_goes_on(script, tmp_path, capsys):
    recording = {"checkpoint_frequency": 20, "eval_frequency": 30, "eval_episodes": 2, "capture_video": True}
    short = {"env_id": "odd_envs:Walk-v0"}  # episodes and films of 30 steps
    train(script, tmp_path / "run", total_timesteps=60, **short)
    resume(script, tmp_path / "run", total_timesteps=120, **short, **recording)
    assert "bit for bit" not in capsys.readouterr().err
    train(script, tmp_path / "direct", total_timesteps=120, **short)
    assert_same_training(tmp_path / "run", tmp_path / "direct")
    rows = read_csv(tmp_path / "run" / "evaluations.csv")
    assert [(row["global_step"], row["episodes"]) for row in rows] == [("60", "1"), ("90", "2"), ("120", "2")]
    assert checkpoint(tmp_path / "run")["args"]["eval_episodes"] == 2
    assert len(list((tmp_path / "run" / "videos").iterdir())) == 2


def test_a_run_that_moves_says_that_it_is_no_longer_the_same(tmp_path, capsys):
    train(SCRIPTS[0], tmp_path / "run", total_timesteps=60)
    state = checkpoint(tmp_path / "run")
    # as on a machine with two GPUs
    cuda = [torch.zeros(16, dtype=torch.uint8)] * 2
    state |= {"args": state["args"] | {"device": "cuda:1"}, "random": state["random"] | {"cuda": cuda}}
    save_checkpoint(tmp_path / "run" / "last.pt", state)
    resume(SCRIPTS[0], tmp_path / "run", device="cpu", num_threads=2, total_timesteps=80)
    told = [line for line in capsys.readouterr().err.splitlines() if "bit for bit" in line]
    assert len(told) == 1 and "--device cuda:1 and --num-threads 1" in told[0]
    args = checkpoint(tmp_path / "run")["args"]
    assert (args["device"], args["num_threads"]) == ("cpu", 2)


def test_a_log_line_after_a_resume_has_the_losses_of_the_last_update(tmp_path):
    train("ppo_continuous", tmp_path / "grown", total_timesteps=900, num_steps=600)
    resume("ppo_continuous", tmp_path / "grown", total_timesteps=1100)
    train("ppo_continuous", tmp_path / "direct", total_timesteps=1100, num_steps=600)
    lines = (read_csv(tmp_path / name / "progress.csv") for name in ("grown", "direct"))
    grown, direct = (next(row for row in rows if row["global_step"] == "1000") for rows in lines)
    assert (
        {key: value for key, value in grown.items() if "losses" in key}
        == {k: v for k, v in direct.items() if "losses" in k}
        != {}
    )


@pytest.fixture(scope="module", params=SCRIPTS)
def unwatched(request, tmp_path_factory):
    """A script and the folder of its run, of short episodes."""
    folder = tmp_path_factory.mktemp("unwatched") / "run"
    train(request.param, folder, env_id="odd_envs:Walk-v0", total_timesteps=250)
    return request.param, folder


@pytest.mark.parametrize(
    "watched",
    [{"eval_frequency": 40, "eval_episodes": 2}, {"checkpoint_frequency": 30}, {"capture_video": True}],
)
def test_watching_a_run_does_not_change_it(unwatched, watched, tmp_path):
    script, folder = unwatched
    train(script, tmp_path / "watched", env_id="odd_envs:Walk-v0", total_timesteps=250, **watched)
    assert_same_training(folder, tmp_path / "watched")


def test_an_evaluation_that_draws_from_global_generators_does_not_change_a_run(tmp_path):
    for name, frequency in (("never", 0), ("often", 20)):
        fields = {"env_id": "odd_envs:GlobalRandom-v0", "eval_frequency": frequency, "eval_episodes": 2}
        train("td3", tmp_path / name, total_timesteps=100, **fields)
    assert_same_training(tmp_path / "never", tmp_path / "often")
