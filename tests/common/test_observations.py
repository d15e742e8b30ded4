"""What an agent sees: vectors, stacks of images, and which is which."""

import gymnasium as gym
import numpy as np
import odd_envs
import pytest
from env_helpers import made, make_stub, play
from gymnasium.spaces import Box, Dict, Discrete, Sequence, Tuple
from helpers import input_error
from odd_envs import emits, image

from cleanrl_cc.common.envs import make_env, make_vector_env
from cleanrl_cc.sac_drq import Args

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


# --- what is an image ---


IMAGES = {
    (36, 50): (1, 4),
    (40, 50, 1): (1, 4),
    (40, 50, 3): (1, 4),
    (3, 64, 64): (1, 4),
    (1, 64, 64): (1, 4),
    (84, 84, 4): (4, 1),
    (4, 84, 84): (4, 1),
    (12, 84, 84): (12, 1),
    (4, 40, 40, 3): (4, 1),
    (4, 3, 40, 40): (4, 1),
    (5, 40, 40, 1): (5, 1),
}


@pytest.mark.parametrize("grayscale", [True, False])
@pytest.mark.parametrize("shape", IMAGES)
def test_an_image_is_recognised_wherever_its_channels_are(shape, grayscale):
    env = made(emits(image(*shape)), image_size=36, grayscale=grayscale)
    frames, stack = IMAGES[shape]
    assert env.observation_space.shape == (frames * stack * (1 if grayscale else 3), 36, 36)
    obs, _ = env.reset(seed=1)
    assert obs.shape == env.observation_space.shape and obs.std() > 1
    assert f"{shape} uint8" in env.describe() and ("own stack" in env.describe()) == (frames > 1)


COLOURS = np.random.default_rng(1).integers(0, 256, (2, 3, 40, 40), np.uint8)  # two frames in RGB
GRAYS = COLOURS.reshape(6, 40, 40)


@pytest.mark.parametrize(
    "picture, expected",
    [
        (COLOURS[0], COLOURS[0]),
        (COLOURS[0].transpose(1, 2, 0), COLOURS[0]),
        (COLOURS, GRAYS),
        (COLOURS.transpose(0, 2, 3, 1), GRAYS),
        (GRAYS, GRAYS.repeat(3, axis=0)),
        (GRAYS.transpose(1, 2, 0), GRAYS.repeat(3, axis=0)),
    ],
    ids=lambda array: str(array.shape),
)
def test_every_pixel_and_colour_is_where_it_was(picture, expected):
    recipe = {"image_size": 40, "frame_stack": 1, "grayscale": False}
    env = make_stub(recipe, observation_space=image(*picture.shape), observations=(picture,))
    assert np.array_equal(env.reset()[0], expected)


def test_an_alpha_that_says_nothing_is_left_out():
    env = made(odd_envs.Opaque, image_size=40)
    env.reset(seed=1)
    obs, *_ = env.step(np.zeros(1, np.float32))
    assert obs[:, 0, 0].tolist() == [100, 100, 100, 101]


def test_four_channels_that_are_all_white_are_a_stack():
    env = make_stub(observation_space=image(40, 40, 4), observations=(255,))
    assert "4 in the environment's own stack" in env.describe()


def test_a_small_picture_has_fewer_channels_than_rows():
    env = made(emits(image(4, 8, 8)), obs="pixels")
    assert "4 in the environment's own stack" in env.describe()


def test_a_stack_of_the_environment_s_own_is_taken_as_it_comes():
    env = made(odd_envs.OwnStack, image_size=40, frame_stack=3)
    env.reset(seed=1)
    for _ in range(5):
        obs, *_ = env.step(np.zeros(1, np.float32))
    assert obs[:, 0, 0].tolist() == [2, 3, 4, 5]


STATES = {
    "board": (odd_envs.Board.observation_space, "auto", 42),
    "small": (image(8, 8), "auto", 64),
    "narrow": (image(50, 35), "auto", 1750),
    "memory": (image(128), "auto", 128),
    "chosen": (image(40, 40, 3), "state", 4800),
    "dictionary": (Dict({"camera": image(40, 40), "speed": Box(-1, 1, (3,))}), "state", 1603),
    "tuple": (Tuple([Discrete(5), Box(-1, 1, (2, 2)), Discrete(3, start=-1)]), "auto", 12),
    "nested": (Dict({"a": Dict({"b": Box(-1, 1)}), "c": Tuple([Discrete(2)])}), "auto", 3),
}


@pytest.mark.parametrize("name", STATES)
def test_everything_else_is_a_vector(name):
    space, obs, size = STATES[name]
    env = made(emits(space), obs=obs)
    assert env.observation_space == Box(-np.inf, np.inf, (size,), np.float32)
    assert env.reset(seed=1)[0].shape == (size,)
    assert env.describe().startswith(f"a vector of {size:,} numbers")


@pytest.mark.parametrize(
    "space, words",
    [
        (
            Dict({"camera": image(64, 64, 3), "speed": Box(-1, 1)}),
            ["camera (64, 64, 3) uint8", "--obs pixels"],
        ),
        (Tuple([image(3, 64, 64), image(40, 40)]), ["0 (3, 64, 64) uint8", "--obs state"]),
        (image(64, 64, 3, high=1, dtype=np.float32), ["(64, 64, 3) float32", "12,288"]),
        (image(64, 64, 3, dtype=np.float32), ["(64, 64, 3) float32", "12,288"]),
        (image(64, 64, high=1), ["(64, 64) uint8", "4,096"]),
    ],
)
def test_a_picture_is_not_flattened_unasked(space, words):
    message = input_error(made, emits(space))
    assert all(word in message for word in [*words, "--obs state"]), message
    assert made(emits(space), obs="state").reset(seed=1)[0].ndim == 1


class Mission(gym.Space):
    """A sentence, in a space that Gymnasium does not know, as MiniGrid has it."""

    def sample(self, mask=None, probability=None):
        return "go to the red ball"

    def contains(self, x):
        return isinstance(x, str)

    def __repr__(self):
        return "Mission()"


@pytest.mark.parametrize("obs", ["auto", "state"])
@pytest.mark.parametrize("space", [Sequence(Box(-1, 1)), Dict({"a": Box(-1, 1), "b": Mission()})])
def test_what_is_no_fixed_number_of_values_is_told(space, obs):
    message = input_error(made, emits(space), obs=obs)
    assert "without a fixed number" in message and str(space) in message and "--wrappers" in message


def test_an_image_beside_what_is_no_fixed_number_of_values_is_seen_alone():
    space = Dict({"image": image(7, 7, 3), "mission": Mission()})
    env = made(emits(space), obs="pixels")
    assert env.reset(seed=1)[0].shape == env.step(env.action_space.sample())[0].shape == (4, 84, 84)


def test_an_image_in_a_dictionary_is_seen_alone_if_that_is_asked_for():
    space = Dict({"camera": image(64, 64, 3), "speed": Box(-1, 1), "inner": Tuple([Discrete(2)])})
    env = made(emits(space), obs="pixels")
    assert env.reset(seed=1)[0].shape == (4, 84, 84)
    assert "from camera (64, 64, 3) uint8; not seen: inner.0, speed" in env.describe()


def test_an_image_that_is_a_dictionary_s_only_part_is_taken():
    assert made(emits(Dict({"pixels": image(64, 64, 3)}))).reset(seed=1)[0].shape == (4, 84, 84)


@pytest.mark.parametrize(
    "env_id, fields, line",
    [
        ("CarRacing-v3", {}, "images 84x84 gray, 4 stacked, from (96, 96, 3) uint8"),
        ("HalfCheetah-v5", {}, "a vector of 17 numbers"),
        ("odd_envs:Board-v0", {}, "a vector of 42 numbers, from (6, 7) uint8"),
        (
            "odd_envs:OwnStack-v0",
            {},
            "images 84x84 gray, 4 in the environment's own stack, from (4, 40, 40) uint8",
        ),
        ("odd_envs:Walk-v0", {"obs": "pixels"}, "images 84x84 gray, 4 stacked, drawn by its renderer"),
    ],
)
def test_one_line_at_the_start_says_what_was_recognised(env_id, fields, line, capsys):
    args = Args(env_id=env_id, **fields)
    envs = make_vector_env(args)
    envs.reset()
    envs.close()
    assert f"Observations: {line}\n" in capsys.readouterr().err
    assert args.frame_stack == (1 if "own stack" in line else 4)
