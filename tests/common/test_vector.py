"""Parallel environments play what one alone plays, and a worker that fails is told."""

import multiprocessing
import os
import resource
import signal
from functools import partial

import gymnasium as gym
import numpy as np
import odd_envs
import pytest
from env_helpers import assert_identical, vector
from helpers import (
    SCRIPTS,
    assert_same_training,
    checkpoint,
    having,
    input_error,
    replay,
    resume,
    run_python,
    train,
)

from cleanrl_cc.common.envs import make_env, make_vector_env
from cleanrl_cc.common.episodes import EPISODE
from cleanrl_cc.common.tables import read_csv
from cleanrl_cc.sac_drq import Args


@pytest.mark.parametrize("action_set", ["auto", "native"])  # continuous and discrete actions
def test_any_number_of_processes_plays_what_gymnasium_plays(monkeypatch, action_set):
    args, played = Args(env_id="LunarLander-v3", num_envs=3, seed=3, action_set=action_set), []
    make = partial(make_env, args.env_id, action_set=action_set)
    vectors = [gym.vector.SyncVectorEnv([partial(make, seed=(3, index)) for index in range(3)])]
    for cores in (1, 2, 3):
        monkeypatch.setattr("cleanrl_cc.common.envs.usable_cores", lambda cores=cores: cores)
        vectors.append(make_vector_env(args))
        assert len(vectors[-1].processes) == cores - 1
    for envs in vectors:
        envs.action_space.seed(4)
        first, _ = envs.reset()
        steps = [envs.step(envs.action_space.sample()) for _ in range(150)]
        ended = [np.flatnonzero(infos.get(f"_{EPISODE}", [])) for *_, infos in steps]
        returns = [
            infos[EPISODE]["r"][indices]
            for (*_, infos), indices in zip(steps, ended, strict=True)
            if len(indices)
        ]
        played.append([first, *(array for step in steps for array in step[:4]), *ended, *returns])
        envs.close()
    assert sum(map(len, ended)) >= 2
    for others in played[1:]:
        assert_identical(played[0], others)


def test_what_came_back_earlier_does_not_change_in_the_next_step():
    envs = make_vector_env(Args(env_id="LunarLander-v3", num_envs=2, seed=3))
    first, _ = envs.reset()
    arrays = [first, *envs.step(envs.action_space.sample())[:4]]
    copies = [array.copy() for array in arrays]
    for _ in range(20):
        envs.step(envs.action_space.sample())
    assert_identical(arrays, copies)
    envs.close()


# --- hundreds of environments ---


def test_memory_is_counted_before_many_environments_are_made():
    # in a new process: this one may have freed memory, which environments would use again
    result = run_python("""
from cleanrl_cc.common import machine
from cleanrl_cc.common.envs import make_vector_env
from cleanrl_cc.sac_drq import Args

machine.free_memory = lambda: 10**9
make_vector_env(Args(env_id="HalfCheetah-v5", num_envs=60_000))
""")
    message = result.stderr.strip().splitlines()[-1]
    assert result.returncode == 1
    assert message.startswith("--num-envs 60000 needs ") and "1.0 GB are free" in message
    largest = int(message.rstrip(".").rpartition(" ")[2])
    assert 300 < largest < 3000  # a HalfCheetah takes about one megabyte


def test_processes_that_cannot_be_started_end_the_run_in_a_sentence(monkeypatch):
    monkeypatch.setattr("cleanrl_cc.common.envs.usable_cores", lambda: 12)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = set(multiprocessing.active_children())
    args = Args(env_id="Pendulum-v1", num_envs=12)
    make_vector_env(args).close()
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 8, limits[1]))
    try:
        message = input_error(make_vector_env, args)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert message.startswith("12 environments need 12 processes here, of which only ")
    assert "Too many open files" in message and set(multiprocessing.active_children()) <= before


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_hundreds_of_environments_are_trained_in_logged_and_resumed(script, two_cores, tmp_path, capsys):
    # Pendulum never rewards: all training episodes are 10 steps long
    fields = {"num_envs": 256, "training_wrappers": ("Patience,frames=10",), "eval_frequency": 1000}
    fields |= {"buffer_size": 256 * 12, "learning_starts": 500, "updates_per_step": 0.02, "num_steps": 4}
    if script in having("learning_rate_schedule"):
        fields |= {"learning_rate_schedule": "constant"}  # others depend on the last step
    train(script, tmp_path / "run", **fields, total_timesteps=2000)
    text = capsys.readouterr().err
    assert "Environments: 256 in 2 processes\n" in text
    updates = "4 minibatches of 256" if script == "ppo_continuous" else "0.02 per step, 5.12 after each step"
    assert updates in text
    resume(script, tmp_path / "run", total_timesteps=3000)
    train(script, tmp_path / "direct", **fields, total_timesteps=3000)
    assert_same_training(tmp_path / "run", tmp_path / "direct")
    state = checkpoint(tmp_path / "run")
    assert 3000 <= state["global_step"] < 3256
    if script != "ppo_continuous":
        assert state["num_updates"] == int((state["global_step"] - 500) * 0.02)
        assert replay(tmp_path / "run")["rewards"].shape == (12, 256)
    rows = read_csv(tmp_path / "run" / "progress.csv")
    assert [int(row["global_step"]) // 1000 for row in rows] == [1, 2, 3]
    assert sum(float(row["charts/episodes"] or 0) for row in rows) > 100
    steps = [int(row["global_step"]) for row in read_csv(tmp_path / "run" / "evaluations.csv")]
    assert [step // 1000 for step in steps] == [1, 2, 3]


# --- workers that fail ---


def test_workers_draw_other_numbers_and_every_run_the_same(two_cores):
    runs = []
    for _ in range(2):
        envs = vector("GlobalRandom", num_envs=4)
        first, _ = envs.reset()
        runs.append([first] + [envs.step(np.zeros((4, 1)))[0] for _ in range(65)])
        envs.close()
    assert len(np.unique(runs[0][0][:, 0])) == 4
    assert np.array_equal(runs[0], runs[1])


@pytest.mark.parametrize(
    "name, words",
    [("Raises", ["AssertionError", "step 11 of its episode 4"]), ("Exits", ["exit code 3", "step 21"])],
)
def test_a_worker_that_fails_ends_the_run_in_a_sentence(two_cores, monkeypatch, name, words):
    envs = vector(name, num_envs=2)
    monkeypatch.setattr(getattr(odd_envs, name), "steps", -(10**6))  # in this process it goes on
    envs.reset()
    message = input_error(lambda: [envs.step(np.zeros((2, 1))) for _ in range(200)])
    assert "nvironment 1" in message and all(word in message for word in words), message
    envs.close()
    assert not envs.processes[0].is_alive()


@pytest.mark.parametrize("processes", [1, 2])
def test_environments_with_other_spaces_are_told(processes, monkeypatch):
    monkeypatch.setattr("cleanrl_cc.common.envs.usable_cores", lambda: processes)
    monkeypatch.setattr(odd_envs.Growing, "made", 0)

    def begin():
        envs = vector("Growing", num_envs=2)
        try:
            envs.reset()
        finally:
            envs.close()

    message = input_error(begin)
    assert "Growing-v0 must have the same observations" in message
    assert "(1,)" in message and "(2,)" in message


def test_a_worker_that_is_killed_ends_the_run_in_a_sentence(two_cores):
    envs = vector("Walk", num_envs=3)
    envs.reset()
    envs.step(np.zeros((3, 1)))
    os.kill(envs.processes[0].pid, signal.SIGKILL)
    message = input_error(lambda: [envs.step(np.zeros((3, 1))) for _ in range(2)])
    assert "environment 2 of Walk-v0" in message and "SIGKILL" in message and "step" in message
    envs.close()


def test_a_worker_that_stops_answering_ends_the_run_in_a_sentence(two_cores, monkeypatch):
    monkeypatch.setattr("cleanrl_cc.common.vector.ANSWER_SECONDS", 1)
    envs = vector("Hangs", num_envs=2)
    monkeypatch.setattr(odd_envs.Hangs, "steps", -(10**6))
    envs.reset()
    message = input_error(lambda: [envs.step(np.zeros((2, 1))) for _ in range(30)])
    assert "environment 1 of Hangs-v0 has not answered for 1 seconds, in step 21" in message
    monkeypatch.setattr("cleanrl_cc.common.vector.CLOSE_SECONDS", 0.1)
    envs.close()
    envs.processes[0].join(10)
    assert not envs.processes[0].is_alive()


def test_a_child_of_multiprocessing_that_is_stopped_leaves_no_worker(two_cores):
    # Such a child joins its own children before it ends, and workers ignore SIGTERM.
    kept = []

    def be_stopped():
        kept.append(make_vector_env(Args(env_id="Pendulum-v1", num_envs=2)))
        kept[0].reset()
        raise SystemExit(7)

    child = multiprocessing.get_context("fork").Process(target=be_stopped)
    child.start()
    child.join(60)
    code = child.exitcode
    child.kill()
    assert code == 7
