"""Environments are made as `envs.py` promises, for every suite, and what cannot be made is told."""

import importlib
import signal

import gymnasium as gym
import numpy as np
import pytest
from env_helpers import WALKER, Plain, numbers, play
from gymnasium.spaces import Box, Discrete
from helpers import input_error, run_python

import cleanrl_cc.common
from cleanrl_cc.common.envs import (
    find_spec,
    make_env,
)
from cleanrl_cc.common.errors import InputError

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


# --- actions ---


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


@pytest.mark.parametrize(
    "action, expected", [([1, 1], [0.4, 0.3, 0]), ([-1, -1], [-0.4, 0, 0.8]), ([0.5, 0], [0.2, 0, 0])]
)
def test_a_gentle_driver_has_the_same_axes_with_less_strength(action, expected):
    env = make_env("CarRacing-v3", action_set="gentle")
    assert env.action_space == Box(-1, 1, (2,), np.float32)
    assert reaching(env, np.array(action, np.float32)).tolist() == np.array(expected, np.float32).tolist()


def test_the_wheels_of_a_gentle_driver_turn_as_far_as_those_of_any():
    angles = []
    for action_set in ("auto", "gentle"):
        env = make_env("CarRacing-v3", action_set=action_set)
        env.reset(seed=1)
        for _ in range(20):
            env.step(np.array([1, 0], np.float32))
        angles.append(env.unwrapped.car.wheels[0].joint.angle)
    assert angles == pytest.approx([-0.4, -0.4], abs=0.03)


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


def test_dm_control_truncates_after_1000_steps():
    env = make_env(WALKER)
    env.reset(seed=1)
    ends = [env.step(np.zeros(6, np.float32))[2:4] for _ in range(1000)]
    assert ends[-1] == (False, True)
    assert not np.any(ends[:-1])


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


MODULES = {
    "def f(:": "SyntaxError",
    "1 / 0": "ZeroDivisionError: division by zero",
    "import sys; sys.exit('no licence')": "SystemExit: no licence",
    "import no_such_library": "there is no module no_such_library",
}


@pytest.mark.parametrize("source", MODULES)
def test_a_module_that_cannot_be_imported_is_told(source, tmp_path, monkeypatch):
    name = f"broken{next(numbers)}"
    (tmp_path / f"{name}.py").write_text(source + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    message = input_error(find_spec, f"{name}:Env-v0")
    assert name in message and (MODULES[source] in message or "no_such_library" in message), message


def test_an_id_that_its_module_lacks_is_answered_with_near_ones():
    assert "Endless-v0" in input_error(find_spec, "odd_envs:Endles-v0")


@pytest.mark.slow
def test_what_draws_ends_upon_sigterm():
    lines = [
        "import os, signal, cleanrl_cc, gymnasium as gym",
        "env = gym.make('Pendulum-v1', render_mode='rgb_array')",
        "env.reset()",
        "env.render()",
        "os.kill(os.getpid(), signal.SIGTERM)",
    ]
    assert run_python("\n".join(lines), SDL_VIDEODRIVER="dummy").returncode == -signal.SIGTERM
