"""A run that was stopped goes on as if it had not been, bit for bit; and nothing
that watches the training changes it."""

import os
import shlex
import shutil
import signal
import tarfile
from functools import cache

import pytest
import torch
from helpers import (
    PIXELS,
    ROOT,
    SCRIPTS,
    Fork,
    assert_same_runs,
    assert_same_training,
    checkpoint,
    command_line,
    having,
    resume,
    start,
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
        "total_timesteps": 700,
        "eval_frequency": 350,
        "checkpoint_frequency": 130,
    },
    "3 Hoppers": {
        "env_id": "Hopper-v5",
        "total_timesteps": 1100,
        "num_envs": 3,
        "eval_frequency": 500,
        "checkpoint_frequency": 130,
    },
    "CarRacing": PIXELS | {"total_timesteps": 110, "checkpoint_frequency": 60},
    "64 walkers": {
        "env_id": "odd_envs:Walk-v0",
        "total_timesteps": 4000,
        "num_envs": 64,
        "num_steps": 16,
        "eval_frequency": 2000,
        "checkpoint_frequency": 600,
        "updates_per_step": 0.03,
    },
    # ends of episodes every 20 steps, and evaluations of 40
    "Pendulum": {
        "env_id": "ShortPendulum-v0",
        "training_wrappers": ("Patience,frames=20",),
        "learning_starts": 30,
    },
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run that nothing interrupts, made once; what goes on with it takes a copy."""

    @cache
    def run(script, problem, **changes):
        folder = tmp_path_factory.mktemp("trained") / "run"
        train(script, folder, **PROBLEMS[problem] | changes)
        return folder

    return run


# All scripts share what answers a signal, and what holds the environments: one of them gets every kind.
STOPS = [
    (script, problem, signal.SIGKILL, False)
    for script in SCRIPTS
    for problem in ("LunarLander", "3 Hoppers", "CarRacing")
]
STOPS += [("sac_drq", "LunarLander", number, False) for number in (signal.SIGTERM, signal.SIGINT)]
STOPS += [("sac_drq", "3 Hoppers", signal.SIGINT, True)]  # Ctrl-C in a terminal reaches the workers too
STOPS += [("ppo_continuous", "3 Hoppers", signal.SIGTERM, False)]  # in the middle of a rollout
STOPS += [(script, "64 walkers", signal.SIGKILL, False) for script in ("rainbow", "ppo_continuous")]


@pytest.mark.parametrize("script, problem, number, whole_group", STOPS)
def test_a_stopped_run_goes_on_bit_for_bit(script, problem, number, whole_group, trained, tmp_path):
    folder = tmp_path / "run"
    fields = PROBLEMS[problem]
    starts = start if whole_group else Fork  # as it is typed in that terminal
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
    assert_same_runs(folder, trained(script, problem))


@pytest.mark.parametrize("episodes", [3, 3.5], ids=["after an episode's last step", "in an episode"])
@pytest.mark.parametrize("num_envs", [1, 2])
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_grown_run_equals_a_longer_one(script, num_envs, episodes, trained, tmp_path):
    # After its last step an environment waits for its reset: Gymnasium keeps
    # that flag where no snapshot reaches it.
    steps = int(20 * num_envs * episodes)
    begun = trained(script, "Pendulum", num_envs=num_envs, total_timesteps=steps)
    assert {env["ended"] for env in checkpoint(begun)["envs"]} == {episodes == 3}
    shutil.copytree(begun, tmp_path / "grown")
    resume(script, tmp_path / "grown", total_timesteps=120 * num_envs)
    longer = trained(script, "Pendulum", num_envs=num_envs, total_timesteps=120 * num_envs)
    assert_same_training(tmp_path / "grown", longer)


@pytest.mark.parametrize("script", having("buffer_size"))
def test_a_process_killed_while_it_saves_leaves_a_matching_pair(script, trained, tmp_path):
    shutil.copytree(trained(script, "Pendulum", num_envs=1, total_timesteps=60), tmp_path / "killed")
    (tmp_path / "killed" / "replay-70.npz").write_bytes(b"renamed, but last.pt was not")
    for name in ("last.pt.tmp", "replay-80.npz.tmp"):
        (tmp_path / "killed" / name).write_bytes(b"half a file")
    resume(script, tmp_path / "killed", total_timesteps=120)
    longer = trained(script, "Pendulum", num_envs=1, total_timesteps=120)
    assert_same_training(tmp_path / "killed", longer)
    names = {path.name for path in (tmp_path / "killed").iterdir()}
    assert names & {"replay-60.npz", "replay-70.npz", "last.pt.tmp", "replay-80.npz.tmp"} == set(), (
        "leftovers fill the disk"
    )


@pytest.mark.parametrize("renames", [0, 1])
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_process_that_ends_between_two_renames_leaves_a_matching_pair(
    script, renames, trained, tmp_path, monkeypatch
):
    shutil.copytree(trained(script, "Pendulum", num_envs=1, total_timesteps=60), tmp_path / "run")
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
    resume(script, tmp_path / "run", total_timesteps=120)
    longer = trained(script, "Pendulum", num_envs=1, total_timesteps=120)
    assert_same_training(tmp_path / "run", longer)


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


def test_what_only_records_may_change_when_a_run_goes_on(tmp_path, capsys):
    script = SCRIPTS[0]  # that recording changes no training of the others is tested below
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


def test_a_run_keeps_the_threads_that_it_began_with(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("cleanrl_cc.common.machine.usable_cores", lambda: 2)
    torch.set_num_threads(3)
    try:
        train(SCRIPTS[0], tmp_path / "run", total_timesteps=60, num_threads=None)
    finally:
        torch.set_num_threads(1)
    capsys.readouterr()
    resume(SCRIPTS[0], tmp_path / "run", total_timesteps=80)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert threads == 3 == checkpoint(tmp_path / "run")["args"]["num_threads"]
    told = capsys.readouterr().err
    assert "3 threads are slow" in told and "--num-threads 2 is faster" in told
    assert "bit for bit" not in told


def test_a_run_says_which_library_or_processor_is_another_one_than_when_it_was_saved(tmp_path, capsys):
    train(SCRIPTS[0], tmp_path / "run", total_timesteps=60)
    state = checkpoint(tmp_path / "run")
    here = state["computed_by"]
    assert here["torch"] == torch.__version__
    older = {"torch": "2.6.0", "processor": "Z80 (no vectors)", "GPU": "H100", "a library of then": "1"}
    save_checkpoint(tmp_path / "run" / "last.pt", state | {"computed_by": here | older})
    for step in (80, 100):  # the second time the same computes it as the first time
        resume(SCRIPTS[0], tmp_path / "run", total_timesteps=step)
        told = [line for line in capsys.readouterr().err.splitlines() if "bit for bit" in line]
        assert len(told) == (step == 80)
        if told:
            assert f"processor Z80 (no vectors), here {here['processor']}; torch 2.6.0, here 2." in told[0]
            assert "H100" not in told[0] and "of then" not in told[0]


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


@pytest.mark.parametrize("script", SCRIPTS)
def test_watching_a_run_does_not_change_it(script, tmp_path):
    changes = {"env_id": "odd_envs:Walk-v0", "total_timesteps": 130}  # short episodes
    watching = {"eval_frequency": 70, "eval_episodes": 2, "checkpoint_frequency": 30, "capture_video": True}
    train(script, tmp_path / "unwatched", **changes)
    train(script, tmp_path / "watched", **changes | watching)
    assert_same_training(tmp_path / "unwatched", tmp_path / "watched")


def test_an_evaluation_that_draws_from_global_generators_does_not_change_a_run(tmp_path):
    for name, frequency in (("never", 0), ("often", 20)):
        fields = {"env_id": "odd_envs:GlobalRandom-v0", "eval_frequency": frequency, "eval_episodes": 2}
        train("td3", tmp_path / name, total_timesteps=100, **fields)
    assert_same_training(tmp_path / "never", tmp_path / "often")
