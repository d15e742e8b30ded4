"""Corridors: what they emit, that a seed is an episode, and that distance and collisions
are counted as the documentation says."""

import gymnasium as gym
import numpy as np
import pytest
from env_helpers import assert_identical, check_snapshot, play
from gymnasium.spaces import Box
from helpers import assert_same_training, checkpoint, input_error, resume, train

from cleanrl_cc.common.envs import make_env
from cleanrl_cc.evaluate import load_policy

pytestmark = pytest.mark.slow

STATIC, MOVING, DENSE = (
    f"cleanrl_cc/Corridor{layout}-Ball-v0" for layout in ("Static", "Moving", "StaticDense")
)
ANT = "cleanrl_cc/CorridorMoving-Ant-v0"
CURRICULUM = "docs.examples.more_walls:MoreWalls"
AHEAD, STILL = np.array([-1, 0], np.float32), np.zeros(2, np.float32)


def run(env, policy, seed: int) -> tuple[list, list, list, dict]:
    """An episode: observations, rewards, infos, and how it ended."""
    observations, rewards, infos, ends = [env.reset(seed=seed)[0]], [], [], (False, False)
    while not any(ends):
        obs, reward, *ends, info = env.step(policy(observations[-1]))
        observations.append(obs)
        rewards.append(reward)
        infos.append(info)
    return observations, rewards, infos, dict(zip(("terminated", "truncated"), ends, strict=True))


def walls(env) -> np.ndarray:
    return env.unwrapped.physics.data.mocap_pos.copy()


@pytest.mark.parametrize(
    "walker, size, num_actions", [("Ball", 26, 2), ("Ant", 54, 8), ("Humanoid", 150, 56)]
)
@pytest.mark.parametrize("layout", ["Static", "MovingDense"])
def test_states_and_actions(walker, size, num_actions, layout):
    env = make_env(f"cleanrl_cc/Corridor{layout}-{walker}-v0")
    assert env.action_space == Box(-1, 1, (num_actions,), np.float32)
    for obs in play(env, seed=1, num_steps=3)[0]:
        assert obs.shape == env.observation_space.shape == (size,)
        assert obs.dtype == env.observation_space.dtype == np.float32
        assert np.isfinite(obs).all()


@pytest.mark.parametrize("env_id", [STATIC, MOVING, ANT])
def test_a_seed_is_a_corridor_and_an_episode(env_id):
    used, fresh = make_env(env_id), make_env(env_id)
    play(used, seed=4, num_steps=15)
    observations, rewards = play(used, seed=5, num_steps=60)
    fresh_observations, fresh_rewards = play(fresh, seed=5, num_steps=60)
    assert_identical(observations, fresh_observations)
    assert rewards == fresh_rewards
    assert_identical(walls(used), walls(fresh))
    used.reset(seed=6)
    assert not np.array_equal(walls(used), walls(fresh))


@pytest.mark.parametrize(
    "env_id, fields, num_envs, moment",
    [
        (MOVING, {"action_repeat": 20}, 3, "in mid-episode"),
        (MOVING, {"action_repeat": 20}, 3, "right after an end"),
        (ANT, {"action_repeat": 20}, 1, "in mid-episode"),
        (MOVING, {"obs": "pixels", "action_repeat": 40}, 1, "right after an end"),
    ],
)
def test_a_snapshot_restores_a_corridor_bit_for_bit(env_id, fields, num_envs, moment):
    check_snapshot(env_id, fields, 10, moment, num_envs)


def test_the_density_is_the_number_of_walls_and_variants_can_be_registered():
    gym.register(
        "SparseCorridor-v0", "cleanrl_cc.common.obstacles:Corridor", kwargs={"walker": "Ball", "density": 0.5}
    )
    gym.register("EmptyCorridor-v0", "cleanrl_cc.common.obstacles:Corridor", kwargs={"density": 0})
    numbers = []
    for env_id in ("EmptyCorridor-v0", "SparseCorridor-v0", STATIC, DENSE):
        env = make_env(env_id)
        env.reset(seed=1)
        env.step(AHEAD)
        numbers.append(len(walls(env)))
    assert numbers == [0, 3, 11, 22]  # in 56 m


def test_an_episode_has_as_many_walls_as_it_is_told_and_the_others_are_under_the_floor():
    env = make_env(MOVING)
    arena = env.unwrapped.task.root_entity
    for number in (2, 0, 11):
        arena.num_walls = number
        for obs in play(env, seed=1, num_steps=3)[0]:
            assert np.isfinite(obs).all()
        assert (walls(env)[:, 2] > 0).tolist() == [True] * number + [False] * (11 - number)


def test_the_curriculum_grows_with_success_and_is_resumed(tmp_path):
    wrappers = {"training_wrappers": (f"{CURRICULUM},goal=-1",)}
    changes = wrappers | {"env_id": MOVING, "action_repeat": 20, "learning_starts": 20}
    train("sac_drq", tmp_path / "grown", total_timesteps=40, **changes)
    # within the second episode of 25 steps, and after its last one
    for steps, num_walls in ((50, 1), (80, 3)):
        resume("sac_drq", tmp_path / "grown", total_timesteps=steps, **wrappers)
        assert checkpoint(tmp_path / "grown")["envs"][0]["learned"] == [{"num_walls": num_walls}]
    train("sac_drq", tmp_path / "direct", total_timesteps=80, **changes)
    assert_same_training(tmp_path / "grown", tmp_path / "direct")
    assert load_policy(tmp_path / "grown").make_env().unwrapped.task.root_entity.num_walls == 11


@pytest.mark.parametrize("env_id", [STATIC, MOVING])
def test_walls_move_if_they_should_and_stay_in_the_corridor(env_id):
    env = make_env(env_id)
    env.reset(seed=1)
    places = [walls(env)]
    for _ in range(400):
        env.step(STILL)
        places.append(walls(env))
    moves = np.ptp(places, axis=0)  # (walls, 3)
    assert (moves[:, [0, 2]] == 0).all()
    assert ((moves[:, 1] > 3.9) & (moves[:, 1] <= 4)).all() if env_id == MOVING else (moves[:, 1] == 0).all()
    assert np.abs(places)[..., 1].max() <= 2


@pytest.mark.parametrize("env_id", [STATIC, MOVING])
def test_the_state_shows_the_next_walls_where_they_are(env_id):
    env = gym.make(env_id, disable_env_checker=True)
    obs, _ = env.reset(seed=2)
    before = walls(env)[:, 1]
    for _ in range(30):
        obs, *_ = env.step(AHEAD)
        x, y = env.unwrapped.task.position(env.unwrapped.physics)
        ahead = [wall for wall in walls(env) if x - 1 <= wall[0] < x + 10][:3]
        assert 1 <= len(ahead) <= 3
        assert obs["lateral"] == pytest.approx([y])
        assert obs["walls"][: len(ahead), 0] == pytest.approx([wall[0] - x for wall in ahead])
        # a substep of 5 ms later
        assert obs["walls"][: len(ahead), 1] == pytest.approx([wall[1] - y for wall in ahead], abs=0.011)
        assert (obs["walls"][len(ahead) :] == (10, 0, 0)).all()
        speeds = (walls(env)[:, 1] - before) / 0.04
        assert obs["walls"][: len(ahead), 2] == pytest.approx(
            speeds[[wall[0] - x < 10 and wall[0] >= x - 1 for wall in walls(env)]], abs=0.1
        )
        before = walls(env)[:, 1]


def test_standing_still_goes_nowhere_touches_nothing_and_is_truncated_after_twenty_seconds():
    _, rewards, infos, ends = run(make_env(STATIC), lambda obs: STILL, seed=1)
    assert ends == {"terminated": False, "truncated": True} and len(infos) == 500
    episode = infos[-1]["cleanrl_cc/episode"]
    assert episode["collisions"] == episode["contact_time"] == 0
    assert episode["distance"] == pytest.approx(0, abs=0.01) and episode["r"] == pytest.approx(0, abs=0.3)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_rolling_straight_ahead_is_stopped_by_a_wall_and_counted(seed):
    env = make_env(STATIC)
    _, rewards, infos, ends = run(env, lambda obs: AHEAD, seed)
    assert ends == {"terminated": False, "truncated": True}
    episode = infos[-1]["cleanrl_cc/episode"]
    assert sum(rewards) * 0.04 == pytest.approx(episode["distance"]) == pytest.approx(infos[-1]["distance"])
    touches = [step for step, info in enumerate(infos) if info["touching"]]
    assert episode["contact_time"] == pytest.approx(0.04 * len(touches)) and len(touches) > 1
    pauses = np.diff([-1000, *touches]) * 0.04
    assert episode["collisions"] == (pauses > 0.5).sum() < len(touches)
    env.reset(seed=seed)
    y = env.unwrapped.task.position(env.unwrapped.physics)[1]
    # the first wall in the way of a Ball of 0.2 m
    x = next(wall[0] for wall in walls(env) if abs(wall[1] - y) < 1.2)
    assert x - 0.35 < infos[touches[0]]["distance"] < x


def test_the_end_of_the_corridor_truncates_and_a_fall_terminates():
    env = make_env(STATIC)
    env.reset(seed=1)
    task, physics = env.unwrapped.task, env.unwrapped.physics
    physics.bind(task._walker._root_joints[0]).qpos = 59.9
    for _ in range(40):
        _, _, terminated, truncated, info = env.step(AHEAD)
        if truncated:
            break
    assert truncated and not terminated and info["distance"] >= 60

    humanoid = make_env("cleanrl_cc/CorridorStatic-Humanoid-v0")
    *_, infos, ends = run(humanoid, lambda obs: np.zeros(56, np.float32), seed=1)
    assert ends == {"terminated": True, "truncated": False} and len(infos) < 100


@pytest.mark.parametrize("env_id", [STATIC, ANT])
def test_pixels_show_the_corridor_and_change(env_id):
    env = make_env(env_id, obs="pixels", image_size=48, grayscale=False, frame_stack=2)
    observations, _ = play(env, seed=1, num_steps=10)
    for obs in observations:
        assert obs.shape == env.observation_space.shape == (6, 48, 48) and obs.dtype == np.uint8
        assert obs.std() > 5
    assert not np.array_equal(observations[0], observations[-1])
    red, green, blue = observations[0][3:].astype(int)
    assert (red > blue + 60).any()  # a wall is in sight
    assert blue[:10].mean() > red[:10].mean() + 20  # the sky is above


def test_videos_follow_the_walker_at_the_speed_of_the_simulation():
    env = make_env(STATIC, render_mode="rgb_array")
    env.reset(seed=1)
    first = env.render()
    for _ in range(20):
        env.step(AHEAD)
    assert env.metadata["render_fps"] == 25
    assert first.shape == (240, 320, 3) and first.std() > 5
    assert (first != env.render()).mean() > 0.05  # the floor passes by
    # shimmy's environments share a dict
    assert make_env("dm_control/walker-walk-v0").metadata["render_fps"] == 40


@pytest.mark.parametrize(
    "kwargs, words",
    [
        ({"walker": "Fish"}, ["Fish", "Ball", "Ant"]),
        ({"density": -1}, ["density", "-1"]),
        ({"density": 11}, ["density", "11"]),
    ],
)
def test_a_wrong_variant_ends_in_one_sentence(kwargs, words):
    message = input_error(gym.make, STATIC, **kwargs)
    assert all(word in message for word in words)


def test_an_unknown_corridor_is_answered_with_a_near_one():
    assert STATIC in input_error(make_env, "cleanrl_cc/CorridorStatic-Bal-v0")
