"""What an environment emits is what `envs.py` promises, for every suite
and for odd environments of one's own."""

import importlib
import json
import os
import subprocess
import sys
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete

import cleanrl_cc.common
from cleanrl_cc.common.envs import (
    find_spec,
    make_env,
    make_vector_env,
    recipe,
    restore_envs,
    snapshot_envs,
)
from cleanrl_cc.common.episodes import EPISODE
from cleanrl_cc.common.errors import InputError
from cleanrl_cc.common.rendering import choose_gl_backend
from cleanrl_cc.common.wrappers import RoadRules
from cleanrl_cc.sac_drq import Args

WALKER = "dm_control/walker-walk-v0"


class Stub(gym.Env):
    """Emits `observations` and `rewards` in turn, terminates after `length` steps, and
    keeps the last action that reached it."""

    def __init__(
        self,
        observation_space=None,
        action_space=None,
        observations=(0.0,),
        rewards=(1.0,),
        length=100,
        render_mode=None,
    ):
        self.observation_space = Box(-1, 1, (1,)) if observation_space is None else observation_space
        self.action_space = Box(-1, 1, (1,)) if action_space is None else action_space
        self.observations, self.rewards, self.length = observations, rewards, length
        self.reused = (
            np.zeros(self.observation_space.shape, self.observation_space.dtype)
            if isinstance(self.observation_space, Box)
            else None
        )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return self.observe(), {}

    def step(self, action):
        self.action = action
        self.count += 1
        reward = self.rewards[(self.count - 1) % len(self.rewards)]
        return self.observe(), reward, self.count == self.length, False, {}

    def observe(self):
        obs = self.observations[self.count % len(self.observations)]
        if self.reused is None:
            return obs
        self.reused[...] = obs  # the same array at every step, as some simulators do
        return self.reused


class Plain(gym.Env):
    """The least that Gymnasium asks for: no render modes, no arguments."""

    observation_space, action_space = Box(-1, 1, (1,)), Box(-1, 1, (1,))

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 0.0, False, False, {}


stub_numbers = count()


def make_stub(patience: int = 0, recipe: dict | None = None, **kwargs):
    env_id = f"Stub{next(stub_numbers)}-v0"
    gym.register(env_id, Stub, kwargs=kwargs)
    return make_env(env_id, **(recipe or {}), patience=patience)


def play(env, seed: int | None, num_steps: int, action_seed: int = 0) -> tuple[list, list]:
    """Observations and rewards of a few steps with always the same actions."""
    rng, observations, rewards = np.random.default_rng(action_seed), [env.reset(seed=seed)[0]], []
    for _ in range(num_steps):
        obs, reward, *_ = env.step(rng.uniform(-1, 1, env.action_space.shape).astype(np.float32))
        observations.append(obs)
        rewards.append(reward)
    return observations, rewards


def assert_identical(arrays, others):
    for a, b in zip(arrays, others, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


# --- observations ---


@pytest.mark.parametrize(
    "env_id, size",
    [("LunarLander-v3", 8), ("HalfCheetah-v5", 17), (WALKER, 24), ("dm_control/cartpole-swingup-v0", 5)],
)
def test_state_observations_are_float32_vectors(env_id, size):
    env = make_env(env_id)
    for obs in play(env, seed=1, num_steps=3)[0]:
        assert obs.shape == env.observation_space.shape == (size,)
        assert obs.dtype == env.observation_space.dtype == np.float32


@pytest.mark.parametrize(
    "env_id, recipe, shape",
    [
        ("CarRacing-v3", {}, (4, 84, 84)),
        ("CarRacing-v3", {"action_repeat": 4, "frame_stack": 2, "grayscale": False}, (6, 84, 84)),
        (WALKER, {"obs": "pixels", "frame_stack": 3, "grayscale": False}, (9, 84, 84)),
        (WALKER, {"obs": "pixels", "image_size": 48, "frame_stack": 1}, (1, 48, 48)),
        ("Hopper-v5", {"obs": "pixels"}, (4, 84, 84)),
        ("Pendulum-v1", {"obs": "pixels"}, (4, 84, 84)),
        ("LunarLander-v3", {"obs": "pixels", "image_size": 64}, (4, 64, 64)),
    ],
)
def test_pixel_observations_are_stacked_bytes_that_show_something(env_id, recipe, shape):
    env = make_env(env_id, **recipe)
    observations, _ = play(env, seed=1, num_steps=5)
    for obs in observations:
        assert obs.shape == env.observation_space.shape == shape
        assert obs.dtype == env.observation_space.dtype == np.uint8
        assert obs.std() > 1
    assert not np.array_equal(observations[0], observations[-1])  # and it moves


MIXED = Dict(
    {"height": Box(-9, 9, (), np.float64), "mode": Discrete(3), "place": Box(-9, 9, (1, 2), np.float64)}
)


@pytest.mark.parametrize(
    "space, value, expected",
    [
        (
            MIXED,
            {"height": np.float64(0.5), "mode": 2, "place": np.array([[3.0, 4.0]])},
            [0.5, 0, 0, 1, 3, 4],
        ),
        (Box(-9, 9, (), np.float64), 2.5, [2.5]),
        (Box(-9, 9, (2, 2), np.float64), [[1, 2], [3, 4]], [1, 2, 3, 4]),
        (Discrete(4), 1, [0, 1, 0, 0]),
    ],
)
def test_any_observation_becomes_one_float32_vector(space, value, expected):
    env = make_stub(observation_space=space, observations=(value,))
    obs, _ = env.reset()
    assert obs.dtype == np.float32 and obs.tolist() == expected
    assert env.observation_space.shape == obs.shape


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1), (8, 8, 3)])
@pytest.mark.parametrize("grayscale", [True, False])
def test_gray_frames_keep_their_values_and_shrink_by_averaging(shape, grayscale):
    image = np.zeros(shape, np.uint8)
    image[:4, 4:] = 200
    image[0, 0] = 100
    recipe = {"obs": "pixels", "image_size": 4, "frame_stack": 1, "grayscale": grayscale}
    obs, _ = make_stub(
        recipe=recipe, observation_space=Box(0, 255, shape, np.uint8), observations=(image,)
    ).reset()
    expected = np.array([[25, 0, 200, 200], [0, 0, 200, 200], [0, 0, 0, 0], [0, 0, 0, 0]])
    assert obs.tolist() == [expected.tolist()] * (1 if grayscale else 3)


def test_gray_is_luma():
    image = np.zeros((4, 4, 3), np.uint8)
    image[[0, 1, 2], :, [0, 1, 2]] = 255  # a red, a green and a blue row
    recipe = {"obs": "pixels", "image_size": 4, "frame_stack": 1}
    obs, _ = make_stub(
        recipe=recipe, observation_space=Box(0, 255, (4, 4, 3), np.uint8), observations=(image,)
    ).reset()
    assert obs[0, :3, 0] == pytest.approx(255 * np.array([0.299, 0.587, 0.114]), abs=1.5)


def test_a_stack_holds_the_newest_frames_oldest_first_and_begins_with_the_first_frame():
    env = make_env("CountingImages-v0", "pixels", frame_stack=3, image_size=4)
    stacks = []
    for seed in range(20):
        obs, ended = env.reset(seed=seed)[0], False
        while not ended:
            stacks.append(obs[:, 0, 2].tolist())
            obs, _, terminated, truncated, _ = env.step(env.action_space.sample())
            ended = terminated or truncated
    assert [0, 0, 0] in stacks and [5, 6, 7] in stacks
    assert all(stack == [max(0, stack[2] - 2), max(0, stack[2] - 1), stack[2]] for stack in stacks)


@pytest.mark.parametrize(
    "obs, space", [("pixels", Box(0, 255, (4, 4), np.uint8)), ("state", Box(0, 255, (3,), np.float32))]
)
def test_an_environment_that_reuses_its_observation_array_corrupts_nothing(obs, space):
    env = make_stub(
        recipe={"obs": obs, "image_size": 4, "frame_stack": 2},
        observation_space=space,
        observations=range(100),
    )
    observations, _ = play(env, seed=1, num_steps=5)
    assert [obs.max() for obs in observations] == list(range(6))
    if space.dtype == np.uint8:
        assert [obs.min() for obs in observations] == [0, 0, 1, 2, 3, 4]


# --- actions ---


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_actions_from_minus_one_to_one_span_asymmetric_bounds(dtype):
    low, high = np.array([[-1, 0], [-5, 2]], dtype), np.array([[1, 10], [1, 3]], dtype)
    env = make_stub(action_space=Box(low, high, dtype=dtype))
    env.reset()
    assert env.action_space == Box(-1, 1, (4,), np.float32)
    for action, expected in [(-1, low), (0, (low + high) / 2), (1, high), (-7, low), (7, high)]:
        env.step(np.full(4, action, np.float32))
        assert env.unwrapped.action.dtype == dtype
        assert np.array_equal(env.unwrapped.action, expected)
    env.step(np.array([1, -1, -1, 1], np.float32))
    assert env.unwrapped.action.tolist() == [[1, 0], [-5, 3]]


def test_actions_reach_every_whole_number_between_integer_bounds():
    env = make_stub(action_space=Box(-2, 3, (101,), np.int64))
    env.reset()
    env.step(np.linspace(-1, 1, 101, dtype=np.float32))
    numbers, counts = np.unique(env.unwrapped.action, return_counts=True)
    assert (
        numbers.tolist() == [-2, -1, 0, 1, 2, 3] and counts[1:-1].min() >= 19 and counts[[0, -1]].min() >= 10
    )


@pytest.mark.parametrize("bound", [np.inf, np.nan])
def test_missing_bounds_are_replaced_with_one_warning(bound):
    space = Box(-2, 2, (3,))
    space.low[1], space.high[1] = -bound, bound
    with pytest.warns(UserWarning, match=r"Action dimensions \[1\]") as warned:
        env = make_stub(action_space=space)
    assert len(warned) == 1
    env.reset()
    env.step(np.ones(3, np.float32))
    assert env.unwrapped.action.tolist() == [2, 1, 2]


def test_a_half_bounded_action_keeps_its_bound():
    space = Box(0, 2, (2,))
    space.high[0] = np.inf
    with pytest.warns(UserWarning, match="no finite bounds"):
        env = make_stub(action_space=space)
    env.reset()
    env.step(-np.ones(2, np.float32))
    assert env.unwrapped.action.tolist() == [0, 0]


def test_an_environment_without_arguments_or_rendering_can_be_made():
    gym.register("Plain-v0", Plain)
    assert play(make_env("Plain-v0"), seed=1, num_steps=2)[1] == [0, 0]


def reaching(env, action):
    """What arrives at the innermost environment."""
    received, step = [], env.unwrapped.step
    env.unwrapped.step = lambda action: received.append(action) or step(action)
    env.reset(seed=1)
    env.step(action)
    return received[-1]  # CarRacing steps once in its reset


@pytest.mark.parametrize(
    "action, expected", [([0.25, 0.5], [0.25, 0.5, 0]), ([-1, -0.75], [-1, 0, 0.75]), ([0, 0], [0, 0, 0])]
)
def test_car_racing_has_one_axis_to_steer_and_one_for_gas_and_brake(action, expected):
    env = make_env("CarRacing-v3")
    assert env.action_space == Box(-1, 1, (2,), np.float32)
    assert reaching(env, np.array(action, np.float32)).tolist() == expected


def test_car_racing_native_has_three_axes_and_five_has_five_actions():
    native, five = make_env("CarRacing-v3", action_set="native"), make_env("CarRacing-v3", action_set="five")
    assert native.action_space == Box(-1, 1, (3,), np.float32)
    # pedals are in [0, 1]
    assert reaching(native, np.array([0.5, -1, 0], np.float32)).tolist() == [0.5, 0, 0.5]
    assert five.action_space == Discrete(5)
    assert reaching(five, 3) == 3


def test_car_racing_is_registered_as_stock():
    ours, stock = find_spec("CarRacing-v3"), gym.spec("CarRacing-v3")
    assert (ours.max_episode_steps, ours.kwargs) == (stock.max_episode_steps, stock.kwargs)


def test_lunar_lander_is_continuous_unless_native():
    assert make_env("LunarLander-v3").action_space == Box(-1, 1, (2,), np.float32)
    assert make_env("LunarLander-v3", action_set="native").action_space == Discrete(4)


# --- time ---


def test_action_repeat_sums_rewards_and_stops_at_the_end_of_the_episode():
    single, repeated = (make_env("CountingState-v0", action_repeat=repeat) for repeat in (1, 3))
    action = np.zeros(2, np.float32)
    for seed in range(20):
        single.reset(seed=seed), repeated.reset(seed=seed)
        ended = False
        while not ended:
            total = 0.0
            for _ in range(3):
                obs, reward, *ends, _ = single.step(action)
                total += reward
                if ended := any(ends):
                    break
            repeated_obs, repeated_reward, *repeated_ends, _ = repeated.step(action)
            assert np.array_equal(repeated_obs, obs) and repeated_ends == ends
            assert repeated_reward == pytest.approx(total)


@pytest.mark.parametrize("repeat, num_steps", [(1, 200), (3, 67), (4, 50)])
def test_time_limits_stay_in_environment_steps(repeat, num_steps):
    env, rewards = make_env("Pendulum-v1", action_repeat=repeat), []  # 200 steps
    env.reset(seed=1)
    for step in range(num_steps):
        _, reward, terminated, truncated, info = env.step(np.zeros(1, np.float32))
        rewards.append(reward)
        assert not terminated and truncated == (step == num_steps - 1)
    assert info[EPISODE]["l"] == num_steps
    assert info[EPISODE]["r"] == pytest.approx(sum(rewards))


def test_dm_control_truncates_after_1000_steps():
    env = make_env(WALKER)
    env.reset(seed=1)
    ends = [env.step(np.zeros(6, np.float32))[2:4] for _ in range(1000)]
    assert ends[-1] == (False, True)
    assert not np.any(ends[:-1])


@pytest.mark.parametrize("obs", ["state", "pixels"])
@pytest.mark.parametrize(
    "env_id", ["HalfCheetah-v5", "Walker2d-v5", "Hopper-v5", "Ant-v5", "Humanoid-v5", "HalfCheetah-v4"]
)
def test_the_camera_follows_who_runs(env_id, obs):
    env, pictures = make_env(env_id, obs=obs, frame_stack=1, grayscale=False, render_mode="rgb_array"), []
    env.reset(seed=1)
    for distance in (0, 24):  # a multiple of the period of the floor
        base = env.unwrapped
        base.set_state(base.init_qpos + distance * np.eye(base.model.nq)[0], base.init_qvel)
        image = (
            env.render()
            if obs == "state"
            else env.step(np.zeros(env.action_space.shape, np.float32))[0].transpose(1, 2, 0)
        )
        pictures.append(image.astype(int))
    # the floor is green, blue or gray
    brown = [np.sum(picture[..., 0] - picture[..., 2] > 25) for picture in pictures]
    assert brown[0] > 20 and 0.5 < brown[1] / brown[0] < 2


def test_dm_control_videos_have_the_speed_of_the_simulation():
    walker = make_env(WALKER, render_mode="rgb_array")
    cartpole = make_env("dm_control/cartpole-swingup-v0")
    assert walker.metadata["render_fps"] == 40  # control time steps of 0.025 and 0.01 seconds
    assert cartpole.metadata["render_fps"] == 100
    walker.reset(seed=1)
    assert walker.render().shape == (240, 320, 3)


@pytest.mark.parametrize(
    "rewards, length, expected",
    [
        ((1, 0, 0, 0), 99, (4, False, True)),
        ((0, 0, 1, 0, -1, 0), 99, (6, False, True)),  # a positive reward starts the count again
        ((0, 0, 0), 3, (3, True, False)),  # a termination stays one
        ((1, 0, 0), 7, (7, True, False)),
    ],
)
def test_patience_truncates_and_never_terminates(rewards, length, expected):
    env = make_stub(patience=3, rewards=rewards, length=length)
    for _ in range(2):  # the second episode starts a new count
        env.reset()
        for step in count(1):  # noqa: B007
            _, _, terminated, truncated, _ = env.step(np.zeros(1, np.float32))
            if terminated or truncated:
                break
        assert (step, terminated, truncated) == expected


class Road(gym.Env):
    """A road, and a car whose one wheel touches the tiles that it is told to."""

    action_space = observation_space = Box(-1, 1, (1,), np.float32)

    def __init__(self, num_tiles: int = 20):
        self.num_tiles = num_tiles
        self.road = None

    def reset(self, *, seed=None, options=None):
        self.road = [SimpleNamespace(idx=index, road_visited=False) for index in range(self.num_tiles)]
        self.wheels = [SimpleNamespace(tiles=[])]
        return np.zeros(1, np.float32), {}

    @property
    def car(self):
        velocity = SimpleNamespace(length=self.speed)
        return SimpleNamespace(wheels=self.wheels, hull=SimpleNamespace(linearVelocity=velocity))

    def drive(self, rules: RoadRules, *tiles: int, speed: float = 0.0) -> tuple[float, bool, bool]:
        """Reward, termination and truncation of a step in which the wheel is on `tiles`."""
        self.speed = speed
        self.wheels[0].tiles = [self.road[tile] for tile in tiles]
        for tile in tiles:
            self.road[tile].road_visited = True
        _, reward, terminated, truncated, _ = rules.step(np.zeros(1, np.float32))
        return round(reward, 9), terminated, truncated

    def step(self, action):
        return np.zeros(1, np.float32), 0.0, False, False, {}


def test_the_road_s_rules_charge_for_grass_for_speed_and_for_tiles_driven_past():
    road = Road()
    rules = RoadRules(road, off_road=0.1, missed=2.0, speed_limit=50.0, speeding=0.05)
    rules.reset()
    tile = 1000 / 20
    assert road.drive(rules, 0) == (0.0, False, False)
    assert road.drive(rules, 19) == (0.0, False, False)  # the start line, seen backwards, is no lap
    assert road.drive(rules, 1, speed=60) == (-0.5, False, False)
    assert road.drive(rules) == (-0.1, False, False)
    assert road.drive(rules, 4) == (-2 * 2 * tile, False, False)  # past 2 and 3
    assert road.drive(rules, 3) == (2 * tile, False, False)  # back to one of them
    for ahead in range(5, 14):
        assert road.drive(rules, ahead) == (0.0, False, False)
    assert road.drive(rules, 14) == (0.0, False, True)  # five tiles before the last the lap is driven


def test_the_road_s_rules_end_an_episode_that_is_lost_or_stuck():
    road = Road()
    rules = RoadRules(road, lost=3, stuck=5)
    rules.reset()
    assert [road.drive(rules)[1] for _ in range(3)] == [False, False, True]
    rules.reset()
    assert [road.drive(rules, 0)[1] for _ in range(5)] == [False, False, False, False, True]


@pytest.mark.parametrize(
    "text", ["Nothing", "nowhere:Wrapper", "RoadRules", "Patience,frames=", "Patience,no_such=1"]
)
def test_a_training_wrapper_that_cannot_be_used_is_named(text):
    with pytest.raises(InputError, match=f"--training-wrappers {text} cannot be used"):
        make_env("Pendulum-v1", training_wrappers=(text,))


def test_training_wrappers_are_innermost_and_out_of_evaluations():
    args = Args(env_id="CarRacing-v3", action_repeat=4, training_wrappers=("RoadRules,speed_limit=60",))
    envs = make_vector_env(args)
    (rules,) = envs.call("get_wrapper_attr", "speed_limit")
    envs.close()
    assert rules == 60
    assert not make_env(**recipe(args)).has_wrapper_attr("speed_limit")


# --- episodes ---


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
    ("LunarLander-v3", {}, 150),
    ("LunarLander-v3", {"action_set": "native"}, 20),  # Discrete actions
    ("Hopper-v5", {}, 40),
    ("CarRacing-v3", {"action_repeat": 4, "patience": 5}, 20),
    (WALKER, {"action_repeat": 40}, 12),  # episodes of 25 agent steps
    (WALKER, {"obs": "pixels", "action_repeat": 40}, 12),
    (
        "conftest:CountingImages-v0",
        {"obs": "pixels", "image_size": 4},
        40,
    ),  # the module is named for worker processes
]


def check_snapshot(env_id: str, fields: dict, num_steps: int, moment: str, num_envs: int):
    """Takes a snapshot at the moment, goes on, and goes on again from the snapshot in other environments."""
    args = Args(env_id=env_id, num_envs=num_envs, seed=3, **fields)
    envs = make_vector_env(args)
    envs.action_space.seed(4)
    envs.reset()
    action = envs.action_space.sample()
    for step in count(1):
        action[...] = envs.action_space.sample()  # in an array that is used again, as a caller may
        obs, _, terminations, truncations, _ = envs.step(action)
        ended = terminations | truncations
        if ended.any() if moment == "right after an end" else step > 5 and not ended.any():
            break
    stored = json.dumps(snapshot_envs(envs))  # plain data
    actions = [envs.action_space.sample() for _ in range(num_steps)]
    expected = [envs.step(action)[:4] for action in actions]
    envs.close()

    resumed = make_vector_env(args)
    resumed_obs, autoreset, cut = restore_envs(resumed, json.loads(stored))
    assert_identical([obs, ended], [resumed_obs, autoreset])
    assert not cut.any()
    for action, results in zip(actions, expected, strict=True):
        assert_identical(results, resumed.step(action)[:4])
    resumed.close()


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("moment", ["in mid-episode", "right after an end"])
@pytest.mark.parametrize("env_id, fields, num_steps", SNAPSHOTS)
def test_a_snapshot_restores_environments_bit_for_bit(env_id, fields, num_steps, moment, num_envs):
    if fields.get("obs") == "pixels":
        # OpenGL does not survive a fork: workers forked after this would wait for ever
        make_env(env_id, **fields).reset()
    check_snapshot(env_id, fields, num_steps, moment, num_envs)


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


def test_replaying_an_episode_draws_only_what_the_stack_still_shows(monkeypatch):
    args = Args(env_id="CarRacing-v3", frame_stack=3, patience=0)
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


# --- ids and rendering ---


@pytest.mark.parametrize(
    "wrong, right",
    [
        ("HalfCheta-v5", "HalfCheetah-v5"),
        ("CarRacing-v33", "CarRacing-v3"),
        ("LunarLander", "LunarLander-v3"),
        ("dm_control/walker-wlak-v0", WALKER),
        ("ant-v5", "Ant-v5"),
    ],
)
def test_an_unknown_id_is_answered_with_near_ones(wrong, right):
    with pytest.raises(InputError, match="Unknown environment") as refusal:
        find_spec(wrong)
    assert wrong in str(refusal.value) and right in str(refusal.value)


@pytest.mark.parametrize("wrong", ["no_such_module:Env-v0", "xyzzy", "", "dm_control/"])
def test_an_unknown_id_without_near_ones_is_refused_in_one_sentence(wrong):
    with pytest.raises(InputError, match="Unknown environment"):
        find_spec(wrong)


def run_python(code: str, **variables) -> subprocess.CompletedProcess:
    """In a process of its own, since a back end is chosen once, with these
    variables and no other that chooses one."""
    environment = {
        key: value
        for key, value in os.environ.items()
        if key not in ("MUJOCO_GL", "PYOPENGL_PLATFORM", "CLEANRL_CC_GL")
    }
    environment |= variables | {"PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)


def test_the_gl_backend_is_probed_once_and_told_to_workers():
    code = (
        "import os, cleanrl_cc.common.rendering as r; backend = r.choose_gl_backend(); r.subprocess = None; "
        "assert r.choose_gl_backend() == backend; "
        "assert os.environ['MUJOCO_GL'] == os.environ['CLEANRL_CC_GL'] == backend; print(backend)"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in ("egl", "osmesa")
    assert f"MuJoCo renders with {done.stdout.strip()}" in done.stderr
    # a worker need not probe
    assert run_python(code, CLEANRL_CC_GL="osmesa", MUJOCO_GL="osmesa").stdout.strip() == "osmesa"


def test_egl_is_tried_before_osmesa_and_software_is_told(monkeypatch, capsys):
    tried = []

    def probe(command, env, **_):
        tried.append(env["MUJOCO_GL"])
        return SimpleNamespace(returncode=len(tried) < 2, stdout="llvmpipe (LLVM 15)\n")

    monkeypatch.setattr("cleanrl_cc.common.rendering.subprocess", SimpleNamespace(run=probe))
    monkeypatch.setenv("MUJOCO_GL", "")
    monkeypatch.setenv("CLEANRL_CC_GL", "")
    assert choose_gl_backend() == "osmesa" and tried == ["egl", "osmesa"]
    assert "software rendering" in capsys.readouterr().err


@pytest.mark.parametrize("env_id", ["Hopper-v5", WALKER])
def test_without_opengl_pixels_are_refused_in_one_sentence(env_id):
    done = run_python(
        f"from cleanrl_cc.common.envs import make_env; make_env({env_id!r}, obs='pixels')",
        MUJOCO_GL="nonsense",
    )
    assert done.returncode == 1
    assert "off-screen OpenGL" in done.stderr and "libegl1" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("env_id", ["Hopper-v5", WALKER])
def test_without_opengl_states_still_work(env_id):
    code = (
        f"from cleanrl_cc.common.envs import make_env; env = make_env({env_id!r}); "
        "env.reset(); env.step(env.action_space.sample())"
    )
    done = run_python(code, MUJOCO_GL="nonsense")
    assert done.returncode == 0, done.stderr


def test_our_ids_need_no_other_import_and_no_simulator_until_one_is_made():
    code = (
        "import sys, gymnasium as gym, cleanrl_cc; "
        "assert not {'Box2D', 'mujoco', 'dm_control', 'torch'} & sys.modules.keys(); "
        "gym.make('cleanrl_cc:cleanrl_cc/FastCarRacing-v3'); "
        "gym.make('cleanrl_cc:cleanrl_cc/CorridorMovingDense-Ant-v0')"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr


def test_registering_twice_changes_nothing_and_warns_of_nothing(recwarn):
    before = dict(gym.registry)
    importlib.reload(cleanrl_cc.common)
    assert gym.registry == before and not recwarn.list
