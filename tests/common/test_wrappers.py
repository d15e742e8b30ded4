"""Wrappers of actions and of time, and those of training alone."""

import warnings
from itertools import count
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
from env_helpers import make_stub
from gymnasium.spaces import Box
from helpers import assert_same_training, checkpoint, input_error, resume, train

from cleanrl_cc.common import announcements
from cleanrl_cc.common.envs import make_env, make_vector_env, recipe
from cleanrl_cc.common.episodes import EPISODE
from cleanrl_cc.common.errors import InputError
from cleanrl_cc.common.rendering import car_racing_view
from cleanrl_cc.common.wrappers import RoadRules
from cleanrl_cc.evaluate import load_policy
from cleanrl_cc.sac_drq import Args

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


def test_no_bound_is_passed_by_the_last_digit_of_a_float64():
    low, high = np.array([-0.1, -0.7, 0.1, -3.3]), np.array([0.3, 0.1, 0.7, 9.9])
    env = make_stub(action_space=Box(low, high, dtype=np.float64))
    env.reset()
    for action, expected in [(-1, low), (1, high)]:
        env.step(np.full(4, action, np.float32))
        assert np.allclose(env.unwrapped.action, expected)
        assert env.unwrapped.action_space.contains(env.unwrapped.action)


def test_true_and_false_take_half_of_the_range_each():
    env = make_stub(action_space=Box(0, 1, (4,), bool))
    env.reset()
    env.step(np.array([-1, -0.5, 0.5, 1], np.float32))
    assert env.unwrapped.action.tolist() == [False, False, True, True]


def test_whole_numbers_without_bounds_have_those_of_other_numbers():
    env = make_stub(action_space=Box(-np.inf, np.inf, (2,), np.int64))
    env.reset()
    env.step(np.array([-1, 1], np.float32))
    assert env.unwrapped.action.tolist() == [-1, 1]


@pytest.mark.parametrize("bound", [np.inf, np.nan, 1e10, np.finfo(np.float32).max])  # 1e10 is MuJoCo's
def test_missing_bounds_are_replaced_with_one_warning(bound, capsys):
    space = Box(-2, 2, (3,))
    space.low[1], space.high[1] = -bound, bound
    announcements.forget()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # as the module of an environment may
        _, env = make_stub(action_space=space), make_stub(action_space=space)
    announcements.tell()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("Warning: action dimensions [1] have no finite bounds")
    env.reset()
    env.step(np.ones(3, np.float32))
    assert env.unwrapped.action.tolist() == [2, 1, 2]


def test_a_half_bounded_action_keeps_its_bound():
    space = Box(0, 2, (2,))
    space.high[0] = np.inf
    env = make_stub(action_space=space)
    env.reset()
    env.step(-np.ones(2, np.float32))
    assert env.unwrapped.action.tolist() == [0, 0]


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


# --- wrappers ---


def test_a_wrapper_of_the_environment_is_trained_with_resumed_and_evaluated(tmp_path):
    changes = {"env_id": "odd_envs:Walk-v0", "wrappers": ("odd_envs:Cropped", "odd_envs:Multiplied,factor=4")}
    train("sac_drq", tmp_path / "grown", total_timesteps=75, **changes)
    resume("sac_drq", tmp_path / "grown", total_timesteps=140, **changes)
    train("sac_drq", tmp_path / "direct", total_timesteps=140, **changes)
    assert_same_training(tmp_path / "grown", tmp_path / "direct")

    message = input_error(load_policy, tmp_path / "grown")
    assert "odd_envs" in message and "--trust" in message
    policy = load_policy(tmp_path / "grown", trust=True)
    assert policy.observation_space.shape == (1,)
    env = policy.make_env()
    env.reset(seed=1)
    (place,), reward, *_ = env.step(np.ones(1, np.float32))
    assert reward == pytest.approx(-4 * abs(place))


@pytest.mark.parametrize(
    "wrapper, word",
    [
        ("odd_envs:Curriculum", "--training-wrappers"),
        ("odd_envs:Cropped,no_such=1", "no_such"),
        ("gymnasium.wrappers:NormalizeReward", "--training-wrappers"),
        ("gymnasium.wrappers:NormalizeObservation", "ppo_continuous.py"),
    ],
)
def test_a_wrapper_of_the_environment_that_cannot_be_kept_is_told(wrapper, word):
    message = input_error(make_env, "odd_envs:Walk-v0", wrappers=(wrapper,))
    assert message.startswith(f"--wrappers {wrapper} ") and word in message


def test_statistics_that_stand_still_may_normalise():
    env = make_env("odd_envs:Walk-v0", wrappers=("odd_envs:Standardised",))
    assert np.allclose(env.reset(seed=1)[0], make_env("odd_envs:Walk-v0").reset(seed=1)[0] / 2)


def test_what_an_agent_sees_is_what_the_wrapper_emits():
    recipe = {"grayscale": False, "frame_stack": 1}
    assert make_env("odd_envs:Walk-v0", wrappers=("odd_envs:Striped",)).observation_space.shape == (4, 84, 84)
    stock, inverted = (
        make_env("CarRacing-v3", wrappers=wrappers, **recipe) for wrappers in ((), ("odd_envs:Inverted",))
    )
    inverted.reset(seed=3)
    stock.reset(seed=3)
    expected = car_racing_view(255 - stock.unwrapped.draw()).transpose(2, 0, 1)
    assert np.array_equal(inverted.obs, expected)


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
    env = make_stub(training_wrappers=("Patience,frames=3",), rewards=rewards, length=length)
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


def test_the_example_of_a_reward_charges_for_leaning():
    plain = make_env("LunarLander-v3")
    shaped = make_env("LunarLander-v3", training_wrappers=("docs.examples.upright:Upright,weight=2.0",))
    plain.reset(seed=3)
    shaped.reset(seed=3)
    for _ in range(30):
        obs, reward, *_ = plain.step(np.array([0, 1], np.float32))
        assert shaped.step(np.array([0, 1], np.float32))[1] == pytest.approx(reward - 2 * abs(obs[4]))
    assert abs(obs[4]) > 0.01


@pytest.mark.parametrize(
    "text",
    [
        "Nothing",
        "nowhere:Wrapper",
        "RoadRules",
        "Patience,frames=",
        "Patience,frames=0",
        "Patience,no_such=1",
    ],
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


@pytest.mark.parametrize("steps", [75, 60])  # in an episode; right after an end
def test_what_a_wrapper_has_learned_is_resumed(steps, tmp_path):
    changes = {"env_id": "odd_envs:Walk-v0", "training_wrappers": ("odd_envs:Curriculum",)}
    train("sac_drq", tmp_path / "grown", total_timesteps=steps, **changes)
    assert checkpoint(tmp_path / "grown")["envs"][0]["learned"] != [{"level": 1.0, "total": 0.0}]
    wrappers = changes["training_wrappers"]
    resume("sac_drq", tmp_path / "grown", total_timesteps=140, training_wrappers=wrappers)
    train("sac_drq", tmp_path / "direct", total_timesteps=140, **changes)
    assert_same_training(tmp_path / "grown", tmp_path / "direct")


@pytest.mark.parametrize(
    "env_id, wrapper, word",
    [
        ("odd_envs:Walk-v0", "odd_envs:NumPyCurriculum", "state_dict"),
        ("odd_envs:Walk-v0", "odd_envs:Cropped", "--wrappers"),
        ("odd_envs:Walk-v0", "gymnasium.wrappers:NormalizeObservation", "ppo_continuous.py"),
        ("odd_envs:Walk-v0", "odd_envs:BrokenCurriculum", "state_dict() of BrokenCurriculum failed with Key"),
        ("odd_envs:Walk-v0", "odd_envs:forgets_to_return", "made a NoneType"),
        ("odd_envs:Walk-v0", "odd_envs:NoWrapper", "made a NoWrapper"),
        ("CarRacing-v3", "RoadRules,no_such=1", "no_such"),
    ],
)
def test_a_wrapper_that_cannot_be_kept_is_told(env_id, wrapper, word):
    message = input_error(lambda: make_env(env_id, training_wrappers=(wrapper,)).reset())
    assert word in message


def test_car_racing_shows_what_a_user_s_wrapper_makes_of_it():
    kwargs = {"grayscale": False, "frame_stack": 1}
    plain, inverted = (
        make_env("CarRacing-v3", **kwargs),
        make_env("CarRacing-v3", **kwargs, training_wrappers=("RoadRules", "odd_envs:Inverted")),
    )
    for env in (plain, inverted):
        env.reset(seed=3)
    action = np.array([0, 1], np.float32)
    for _ in range(3):
        stock, *_ = plain.step(action)
        seen, *_ = inverted.step(action)
    expected = car_racing_view(255 - plain.unwrapped.draw()).transpose(2, 0, 1)
    assert np.array_equal(seen, expected) and not np.array_equal(seen, stock)
    assert not make_env("CarRacing-v3", training_wrappers=("RoadRules",)).unwrapped.render_observation
