"""An episode is a seed and its actions, and a replay that comes to something else is told."""

from base64 import b64encode

import numpy as np
import pytest
from env_helpers import WALKER, assert_identical, check_snapshot, play, vector
from helpers import assert_same_training, checkpoint, replay, resume, train

from cleanrl_cc.common import evaluation
from cleanrl_cc.common.envs import make_env, make_vector_env, restore_envs, snapshot_envs
from cleanrl_cc.common.episodes import EPISODE
from cleanrl_cc.sac_drq import Args


@pytest.mark.parametrize(
    "env_id, recipe",
    [
        ("LunarLander-v3", {}),
        ("Hopper-v5", {}),
        ("CarRacing-v3", {"action_repeat": 4}),
        (WALKER, {}),
        (WALKER, {"obs": "pixels", "action_repeat": 4}),
    ],
)
def test_a_seed_is_an_episode_whatever_happened_before(env_id, recipe):
    used = make_env(env_id, **recipe, seed=(1,))
    play(used, seed=None, num_steps=15, action_seed=1)
    play(used, seed=4, num_steps=3)
    observations, rewards = play(used, seed=5, num_steps=8)
    fresh_observations, fresh_rewards = play(make_env(env_id, **recipe, seed=(2,)), seed=5, num_steps=8)
    assert_identical(observations, fresh_observations)
    assert rewards == fresh_rewards
    assert not np.array_equal(observations[0], used.reset(seed=6)[0])


def test_unseeded_episodes_differ_and_repeat_with_the_seed_of_the_run():
    def first_episodes(*entropy):
        env = make_env("CountingState-v0", seed=entropy)
        return [int(env.reset()[0][0]) for _ in range(5)]

    assert first_episodes(1, 0) == first_episodes(1, 0)
    assert len({tag for entropy in [(1, 0), (1, 1), (2, 0)] for tag in first_episodes(*entropy)}) == 15


SNAPSHOTS = [
    ("LunarLander-v3", {}, 150, 1),
    ("LunarLander-v3", {}, 150, 3),
    ("LunarLander-v3", {"action_set": "native"}, 20, 3),  # Discrete actions
    ("Hopper-v5", {}, 40, 3),
    ("CarRacing-v3", {"action_repeat": 4, "training_wrappers": ("Patience,frames=20",)}, 10, 3),
    (WALKER, {"action_repeat": 40}, 12, 3),  # episodes of 25 agent steps
    (WALKER, {"obs": "pixels", "action_repeat": 40}, 5, 2),
    # the module is named for worker processes
    ("conftest:CountingImages-v0", {"obs": "pixels", "image_size": 4}, 40, 1),
    ("conftest:CountingImages-v0", {"obs": "pixels", "image_size": 4}, 40, 3),
]


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["in mid-episode", "right after an end"])
@pytest.mark.parametrize("env_id, fields, num_steps, num_envs", SNAPSHOTS)
def test_a_snapshot_restores_environments_bit_for_bit(env_id, fields, num_steps, moment, num_envs):
    if fields.get("obs") == "pixels":
        # OpenGL does not survive a fork: workers forked after this would wait for ever
        make_env(env_id, **fields).reset()
    check_snapshot(env_id, fields, num_steps, moment, num_envs)


def test_replaying_an_episode_draws_only_what_the_stack_still_shows(monkeypatch):
    args = Args(env_id="CarRacing-v3", frame_stack=3)
    envs, resumed = make_vector_env(args), make_vector_env(args)
    envs.reset()
    for _ in range(10):
        obs, *_ = envs.step(envs.action_space.sample())
    car, draws = resumed.envs[0].unwrapped, []
    draw = car.draw
    monkeypatch.setattr(car, "draw", lambda: draws.append(1) or draw())
    resumed_obs, *_ = restore_envs(resumed, snapshot_envs(envs))
    assert np.array_equal(resumed_obs, obs)
    assert len(draws) == 3


def test_an_environment_s_record_of_an_episode_stays_its_own():
    env = make_env("odd_envs:InfoNumber-v0")
    env.reset(seed=1)
    for _ in range(30):
        *_, info = env.step(np.zeros(1, np.float32))
    assert info["episode"] == 30 and info[EPISODE]["l"] == 30


def test_an_endless_episode_resumes(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "CUT_STEPS", (40, 80))
    train("td3", tmp_path / "grown", env_id="odd_envs:Endless-v0", total_timesteps=75)
    resume("td3", tmp_path / "grown", total_timesteps=110)
    train("td3", tmp_path / "direct", env_id="odd_envs:Endless-v0", total_timesteps=110)
    assert_same_training(tmp_path / "grown", tmp_path / "direct")


# --- replays that come to something else ---


ODD_REPLAYS = {
    "GlobalRandom": "the return is",
    "Unrepeatable": "the return is",
    "HiddenRandom": "the return is",
    "Unrewarded": "the observation is another",
    "EndsEarlier": "the episode ended after 3 of 20 steps",
    "FailsAgain": "AssertionError: not again",
}


@pytest.mark.slow
@pytest.mark.parametrize("script", ["sac_drq", "ppo_continuous", "rainbow"])
@pytest.mark.parametrize("name", ODD_REPLAYS)
def test_an_episode_that_does_not_repeat_itself_is_cut(name, script, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("cleanrl_cc.common.runs.Run.evaluate", lambda *_: 0.0)
    # the first number of the global generator comes again, the second does not
    steps, last = (50, 50) if name == "GlobalRandom" else (20, 19)
    folder, changes = tmp_path / "run", {"env_id": f"odd_envs:{name}-v0", "num_steps": 100}
    train(script, folder, total_timesteps=steps, **changes)
    before = checkpoint(folder)["envs"][0]
    capsys.readouterr()
    resume(script, folder, total_timesteps=steps + 2)
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Warning")]
    assert len(warnings) == 1 and ODD_REPLAYS[name] in warnings[0], warnings
    rows = replay(folder)
    earlier = [29] if name == "GlobalRandom" else []
    assert np.flatnonzero(rows["truncations"][: last + 4, 0]).tolist() == [*earlier, last]
    assert np.flatnonzero(rows["final"][: last + 4, 0]).tolist() == [*(row + 1 for row in earlier), last + 1]
    # the truncated step bootstraps from the observation that followed it in training
    observations = rows["obs"] if "obs" in rows else rows["frames"]
    assert b64encode(observations[last + 1, 0].tobytes()).decode() == before["obs"]
    after = checkpoint(folder)["envs"][0]
    assert after["episode"] == before["episode"] + 1 and len(after["actions"]) == 2


def test_several_environments_that_do_not_repeat_themselves_are_one_sentence(two_cores, capsys):
    envs, resumed = vector("Unrepeatable", num_envs=3), vector("Unrepeatable", num_envs=3)
    envs.reset()
    obs = envs.step(np.zeros((3, 1)))[0]
    restored, autoreset, cut = restore_envs(resumed, snapshot_envs(envs))
    assert np.array_equal(restored, obs) and autoreset.all() and cut.all()
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Warning")]
    assert len(warnings) == 1 and "environments 0, 1 and 2" in warnings[0]
    assert resumed.step(np.zeros((3, 1)))[1].tolist() == [0, 0, 0]  # a reset
    envs.close(), resumed.close()


def test_an_ended_episode_that_does_not_repeat_itself_keeps_its_end(capsys):
    envs, resumed = vector("Unrepeatable"), vector("Unrepeatable")
    envs.reset()
    for _ in range(30):
        obs = envs.step(np.zeros((1, 1)))[0]
    restored, autoreset, cut = restore_envs(resumed, snapshot_envs(envs))
    assert np.array_equal(restored, obs) and autoreset.all() and not cut.any()
    envs.close(), resumed.close()


def test_a_snapshot_without_observation_is_replayed_as_before():
    envs, resumed = vector("Walk"), vector("Walk")
    envs.reset()
    for _ in range(10):
        obs = envs.step(np.ones((1, 1)))[0]
    (snapshot,) = snapshot_envs(envs)
    old = {key: snapshot[key] for key in ("episode", "seed", "actions", "ended")}
    restored, autoreset, cut = restore_envs(resumed, [old])
    assert np.array_equal(restored, obs) and not autoreset.any() and not cut.any()
    envs.close(), resumed.close()
