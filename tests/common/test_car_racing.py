"""FastCarRacing must be indistinguishable from Gymnasium's CarRacing, step by step and byte by byte."""

import copy
import math
import os
import pickle

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")

import numpy as np
import pygame
import pytest
from gymnasium.envs.box2d.car_racing import CarRacing

from cleanrl_cc.common.car_racing import FastCarRacing

pytestmark = pytest.mark.slow


def random_smooth(env, t, rng, memory):
    memory["action"] = 0.9 * memory.get("action", np.zeros(3)) + 0.25 * rng.normal(size=3)
    return memory["action"]


def full_gas(env, t, rng, memory):
    """Leave the track in a straight line."""
    return 0.0, 1.0, 0.0


def spin(env, t, rng, memory):
    """Accelerate, then throw the car around: leaves skid marks on road and grass."""
    return ((0, 1, 0), (1, 1, 0), (1, 0, 1), (-1, 0.5, 0.4))[t // 25 % 4]


def follow_track(env, t, rng, memory):
    """Steer towards a tile a few tiles ahead; completes the lap on most tracks."""
    x, y = env.car.hull.position
    tiles = np.array(env.track)[:, 2:]
    nearest = int(np.argmin(((tiles - (x, y)) ** 2).sum(1)))
    ahead_x, ahead_y = tiles[(nearest + 5) % len(tiles)]
    error = math.remainder(math.atan2(x - ahead_x, ahead_y - y) - env.car.hull.angle, 2 * math.pi)
    speed = math.hypot(*env.car.hull.linearVelocity)
    gas = 0.5 if speed < 50 and abs(error) < 0.5 else 0.2 * (speed < 30)
    return -2 * error, gas, 0.3 * (speed > 35 and abs(error) > 0.5)


def to_action(env, action):
    steering, gas, brake = action
    if env.continuous:
        return np.clip(action, [-1, 0, 0], 1).astype(np.float32)
    return 1 if steering > 0.2 else 2 if steering < -0.2 else 4 if brake > 0 else 3 if gas > 0 else 0


class SkippableCarRacing(CarRacing):
    """Stock CarRacing that saves the tests the time of pictures that are not compared."""

    is_drawn = True

    def _render(self, mode):
        return super()._render(mode) if self.is_drawn or mode != "state_pixels" else None


def make_pair(**kwargs):
    return SkippableCarRacing(**kwargs), FastCarRacing(**kwargs)


def play(stock, fast, style, seed, steps, is_drawn=lambda t: True, frames=()):
    """Step both environments side by side, compare everything and return
    the number of steps and the last info.

    Where `is_drawn(t)` is False neither draws an observation. Where `t` is in
    `frames` the videos are compared as well.
    """
    expected, _ = stock.reset(seed=seed)
    observation, info = fast.reset(seed=seed)
    assert info == {}
    if fast.render_observation:
        assert observation.tobytes() == expected.tobytes()
    rng, memory = np.random.default_rng(seed), {}
    for t in range(steps):
        action = to_action(stock, style(stock, t, rng, memory))
        stock.is_drawn = fast.render_observation = is_drawn(t)
        expected, *outcome = stock.step(action)
        observation, *fast_outcome = fast.step(action)
        assert fast_outcome == outcome, f"step {t}"
        if is_drawn(t):
            assert observation.shape == expected.shape and observation.dtype == expected.dtype
            assert observation.tobytes() == expected.tobytes(), f"step {t}"
        if t in frames:
            assert fast.render().tobytes() == stock.render().tobytes(), f"frame {t}"
        if outcome[1]:
            return t + 1, outcome[-1]
    return steps, {}


@pytest.mark.parametrize("seed, style", [(1, random_smooth), (2, full_gas), (4, spin)])
def test_identical_to_stock(seed, style):
    stock, fast = make_pair(render_mode="rgb_array")
    play(stock, fast, style, seed, steps=130, frames=(0, 20, 129))


@pytest.mark.parametrize("seed", [100, 102])
def test_identical_over_a_lap(seed):
    stock, fast = make_pair()
    _, info = play(stock, fast, follow_track, seed, steps=1000, is_drawn=lambda t: t % 20 == 0 or t > 950)
    assert info == {"lap_finished": True}
    assert fast.tile_visited_count == stock.tile_visited_count > 0.9 * len(fast.track)
    measured = fast.episode_metrics()
    assert measured["tiles_missed"] == len(stock.track) - stock.tile_visited_count
    assert measured["lap_finished"] == 1 and measured["grass_share"] < 0.1 and measured["spins"] == 0


def test_identical_out_of_the_playfield():
    stock, fast = make_pair()
    _, info = play(stock, fast, full_gas, seed=100, steps=1000, is_drawn=lambda t: t > 80 and t % 4 == 0)
    assert info == {"lap_finished": False}
    measured = fast.episode_metrics()
    assert measured["tiles_missed"] == len(stock.track) - stock.tile_visited_count
    assert measured["lap_finished"] == 0 and measured["grass_share"] > 0.2


def test_a_spin_is_a_car_that_moves_backwards():
    _, fast = make_pair()
    fast.reset(seed=100)
    for _ in range(100):
        fast.step(np.array([0, 0.5, 0], np.float32))
    forwards = fast.car.hull.linearVelocity
    for number in (1, 2):
        for sign in (-1, -1, 1):
            for body in (fast.car.hull, *fast.car.wheels):
                body.linearVelocity = sign * forwards
            fast.step(np.zeros(3, np.float32))
        assert fast.episode_metrics()["spins"] == number
    fast.reset(seed=100)
    assert fast.episode_metrics()["spins"] == fast.episode_metrics()["grass_share"] == 0


@pytest.mark.parametrize("kwargs", [{"continuous": False}, {"domain_randomize": True}])
@pytest.mark.parametrize("style", [spin, follow_track])
def test_identical_in_other_modes(kwargs, style):
    stock, fast = make_pair(render_mode="rgb_array", **kwargs)
    for seed in (6, 7):
        play(stock, fast, style, seed, steps=80, is_drawn=lambda t: t % 4 == 3, frames=(79,))


def test_reset_without_seed_and_with_options():
    stock, fast = make_pair(domain_randomize=True)
    for kwargs in ({"seed": 8}, {}, {"options": {"randomize": False}}):
        assert fast.reset(**kwargs)[0].tobytes() == stock.reset(**kwargs)[0].tobytes()


def test_skipped_frames_leave_later_ones_alike():
    stock, fast = make_pair(render_mode="rgb_array")
    stock.reset(seed=9)
    stock.is_drawn = False
    fast.render_observation = False
    fast.reset(seed=9)
    for t in range(150):
        stock.is_drawn = fast.render_observation = t >= 140
        action = to_action(stock, spin(stock, t, None, None))
        expected, *outcome = stock.step(action)
        observation, *fast_outcome = fast.step(action)
        assert fast_outcome == outcome
        assert t < 140 or observation.tobytes() == expected.tobytes(), f"step {t}"
    assert fast.render().tobytes() == stock.render().tobytes()


def test_skipping_returns_the_last_drawn_observation():
    env = FastCarRacing()
    env.render_observation = False
    assert not env.reset(seed=10)[0].any()
    env.render_observation = True
    drawn = env.reset(seed=10)[0]
    env.render_observation = False
    assert env.step(np.array([0.0, 1.0, 0.0]))[0] is drawn
    assert env.reset(seed=11)[0] is drawn


def test_observations_have_their_own_writeable_memory():
    env = FastCarRacing()
    observations = [env.reset(seed=12)[0]]
    copies = [observations[0].copy()]
    for _ in range(30):
        observations.append(env.step(np.array([0.1, 1.0, 0.0]))[0])
        copies.append(observations[-1].copy())
    for i, observation in enumerate(observations):
        assert observation.flags.writeable
        assert np.array_equal(observation, copies[i])
        assert not any(np.shares_memory(observation, other) for other in observations[:i])


def test_survives_pygame_quit():
    env, twin = FastCarRacing(), FastCarRacing()
    env.reset(seed=13), twin.reset(seed=13)
    pygame.quit()
    for _ in range(15):  # long enough for the score to change
        action = np.array([0.0, 1.0, 0.0])
        assert np.array_equal(env.step(action)[0], twin.step(action)[0])


def test_human_mode():
    env, stock = FastCarRacing(render_mode="human"), CarRacing()
    assert env.reset(seed=14)[0].tobytes() == stock.reset(seed=14)[0].tobytes()
    action = np.array([0.0, 1.0, 0.0])
    assert env.step(action)[0].tobytes() == stock.step(action)[0].tobytes()
    env.close()


def test_copies_keep_the_constructor_arguments():
    env = FastCarRacing(lap_complete_percent=0.5, continuous=False, domain_randomize=True)
    for clone in (copy.deepcopy(env), pickle.loads(pickle.dumps(env))):
        assert (clone.lap_complete_percent, clone.continuous, clone.domain_randomize) == (0.5, False, True)
        assert clone.tile_visited_count == len(clone.track) == 0
