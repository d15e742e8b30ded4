"""Other people's environments: they train and resume, or one sentence says what is wrong with them."""

import os
import re
import signal
import subprocess
import sys
from base64 import b64encode
from itertools import count
from pathlib import Path

import gymnasium as gym
import imageio.v2 as imageio
import numpy as np
import odd_envs
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Tuple
from helpers import assert_same_training, checkpoint, input_error, replay, resume, train
from odd_envs import emits, image

from cleanrl_cc.common import evaluation
from cleanrl_cc.common.envs import find_spec, make_env, make_vector_env, restore_envs, snapshot_envs
from cleanrl_cc.common.episodes import EPISODE
from cleanrl_cc.common.errors import InputError
from cleanrl_cc.common.folders import new_folder
from cleanrl_cc.common.rendering import car_racing_view
from cleanrl_cc.common.tables import read_csv
from cleanrl_cc.sac_drq import Args

TESTS = Path(__file__).parent
numbers = count()


def made(kind: type, **recipe):
    """An environment of a class, wrapped."""
    env_id = f"Odd{next(numbers)}-v0"
    gym.register(env_id, kind)
    return make_env(env_id, **recipe)


@pytest.fixture(autouse=True)
def fresh_counts(monkeypatch):
    for kind in vars(odd_envs).values():
        for name in ("steps", "resets"):
            if isinstance(kind, type) and name in vars(kind):
                monkeypatch.setattr(kind, name, 0)


def vector(name: str, **fields):
    return make_vector_env(Args(env_id=f"odd_envs:{name}-v0", **fields))


# --- they train, and resume ---

DISCRETE = ("dqn_atari_style", "rainbow")
TRAINS = [(script, name) for script in DISCRETE for name in ("Lookup", "Shifted", "ManyActions")]
TRAINS += [("sac_drq", name) for name in ("OurNames", "InfoNumber", "InfoDict", "Board", "Walk")]
TRAINS += [("ppo_continuous", "OurNames"), ("dqn_atari_style", "ChannelFirst"), ("sac_drq", "OwnStack")]


@pytest.mark.parametrize("script, name", TRAINS)
def test_it_trains_and_resumes_bit_for_bit(script, name, tmp_path):
    changes = {"env_id": f"odd_envs:{name}-v0", "buffer_size": 1000}
    if (script, name) == ("rainbow", "ManyActions"):  # c51 would have two million outputs
        changes["components"] = ("double", "per")
    train(script, tmp_path / "grown", total_timesteps=75, **changes)
    resume(script, tmp_path / "grown", total_timesteps=110)
    train(script, tmp_path / "direct", total_timesteps=110, **changes)
    assert_same_training(tmp_path / "grown", tmp_path / "direct")
    assert float(read_csv(tmp_path / "direct" / "progress.csv")[-1]["charts/episodic_length"]) == 30


@pytest.mark.parametrize("name", ["Taxi", "FrozenLake", "CliffWalking"])
@pytest.mark.parametrize("script", DISCRETE)
def test_grid_worlds_of_gymnasium_resume(script, name, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "CUT_STEPS", (40, 80))
    newest = max(env_id for env_id in gym.registry if env_id.startswith(f"{name}-v"))
    changes = {"env_id": newest, "training_wrappers": ("Patience,frames=20",)}
    train(script, tmp_path / "grown", total_timesteps=75, **changes)
    resume(script, tmp_path / "grown", total_timesteps=110)
    train(script, tmp_path / "direct", total_timesteps=110, **changes)
    assert_same_training(tmp_path / "grown", tmp_path / "direct")


def test_a_run_folder_s_name_has_no_colon(tmp_path):
    folder = new_folder(Args(env_id="odd_envs:Walk-v0", runs_dir=str(tmp_path)), "sac_drq")
    assert not re.search(r'[<>:"|?*\\]', folder.name)


@pytest.mark.parametrize("name, fps", [("FpsNone", 30), ("GrayFilm", 30), ("Walk", 20)])
def test_it_is_filmed(name, fps, tmp_path):
    train("sac_drq", tmp_path / "run", env_id=f"odd_envs:{name}-v0", total_timesteps=10, capture_video=True)
    (path,) = (tmp_path / "run" / "videos").iterdir()
    with imageio.get_reader(path) as film:
        assert film.get_meta_data()["fps"] == fps and film.count_frames() == 30


@pytest.mark.parametrize("stated, steps", [(None, 40), (60, 60), (10**9, 80)])
def test_an_evaluation_without_end_is_cut_and_says_so(stated, steps, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evaluation, "CUT_STEPS", (40, 80))
    env_id = f"Endless{next(numbers)}-v0"
    gym.register(env_id, odd_envs.Endless, max_episode_steps=stated)
    train("sac_drq", tmp_path / "run", env_id=env_id, total_timesteps=110, eval_episodes=3)
    (row,) = read_csv(tmp_path / "run" / "evaluations.csv")
    assert float(row["length_mean"]) == steps
    if stated == 60:
        assert "episodes_cut" not in row
    else:
        assert row["episodes_cut"] == "3"
        assert (
            f"3 of 3 evaluation episodes had not ended and were cut after {steps} steps"
            in capsys.readouterr().err
        )


def test_an_endless_episode_resumes(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "CUT_STEPS", (40, 80))
    train("td3", tmp_path / "grown", env_id="odd_envs:Endless-v0", total_timesteps=75)
    resume("td3", tmp_path / "grown", total_timesteps=110)
    train("td3", tmp_path / "direct", env_id="odd_envs:Endless-v0", total_timesteps=110)
    assert_same_training(tmp_path / "grown", tmp_path / "direct")


# --- one sentence ---

BROKEN = {
    "OneForThree": ["its space", "(3,)", "(1,)"],
    "FloatsForBytes": ["its space", "uint8", "float64"],
    "MissingKey": ["its space", "place, time"],
    "TooShort": ["its space", "2 parts"],
    "NoSuchNumber": ["its space", "Discrete(4)", "4 came"],
    "InfoNone": ["info", "dict", "None"],
    "RewardArray": ["reward", "number", "(1,)"],
    "RewardText": ["reward", "number", "str"],
    "FourValues": ["step()", "terminated, truncated", "4 values"],
    "LimitedFourValues": ["step()", "terminated, truncated", "got 4"],
    "ResetAlone": ["reset()", "observation, info"],
    "NoSeed": ["TypeError", "seed"],
    "Unmade": ["LookupError: no licence", "odd_envs.py"],
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_promise_is_told_at_the_start(name, tmp_path):
    script = "dqn_atari_style" if name == "NoSuchNumber" else "sac_drq"
    message = input_error(train, script, tmp_path / "run", env_id=f"odd_envs:{name}-v0", total_timesteps=60)
    assert name in message
    assert all(word in message for word in BROKEN[name]), message


def test_numbers_beyond_their_bounds_are_told_once_and_taken(capsys):
    env = make_env("odd_envs:BeyondBounds-v0")
    for _ in range(2):
        env.reset()
        assert env.step(np.zeros(1, np.float32))[0].tolist() == [10, 1]
    (first, second) = capsys.readouterr().err.strip().splitlines()
    assert "BeyondBounds" in first and "-9 and 9" in first and "10 came" in first
    assert "reset()" in first and "step()" in second


FAULTS = {
    "NaNObservation": ["observed nan", "place 0 of 2"],
    "InfiniteReward": ["reward inf"],
    "TooLarge": ["reward 1e+300"],
    "Raises": ["AssertionError: the", "odd_envs.py, line"],
}


@pytest.mark.parametrize("num_envs", [1, 2])
@pytest.mark.parametrize("script", ["sac_drq", "ppo_continuous", "rainbow"])
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_told_before_it_is_stored(name, script, num_envs, tmp_path, monkeypatch):
    monkeypatch.setattr("cleanrl_cc.common.envs.usable_cores", lambda: 2)
    changes = {"env_id": f"odd_envs:{name}-v0", "total_timesteps": 400, "num_envs": num_envs}
    message = input_error(train, script, tmp_path / "run", checkpoint_frequency=40, **changes)
    assert (
        f"Environment 0 of odd_envs:{name}-v0" in message or f"Environment 1 of odd_envs:{name}-v0" in message
    )
    assert "in step 11 of its episode 4" in message
    assert all(word in message for word in FAULTS[name]), message
    assert np.isfinite(replay(tmp_path / "run")["rewards"]).all()
    monkeypatch.setattr(getattr(odd_envs, name), "steps", -(10**6))  # it is mended
    resume(script, tmp_path / "run")
    assert checkpoint(tmp_path / "run")["global_step"] >= 400


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


# --- workers ---


@pytest.fixture
def two_cores(monkeypatch):
    monkeypatch.setattr("cleanrl_cc.common.envs.usable_cores", lambda: 2)


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


# --- replays that come to something else ---

ODD_REPLAYS = {
    "GlobalRandom": "the return is",
    "Unrepeatable": "the return is",
    "HiddenRandom": "the return is",
    "Unrewarded": "the observation is another",
    "EndsEarlier": "the episode ended after 3 of 20 steps",
    "FailsAgain": "AssertionError: not again",
}


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


# --- what is an image ---

IMAGES = {
    (40, 50): (1, 4),
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


def test_an_alpha_that_says_nothing_is_left_out():
    env = made(odd_envs.Opaque, image_size=40)
    env.reset(seed=1)
    obs, *_ = env.step(np.zeros(1, np.float32))
    assert obs[:, 0, 0].tolist() == [100, 100, 100, 101]


def test_a_stack_of_the_environment_s_own_is_taken_as_it_comes():
    env = made(odd_envs.OwnStack, image_size=40, frame_stack=3)
    env.reset(seed=1)
    for _ in range(5):
        obs, *_ = env.step(np.zeros(1, np.float32))
    assert obs[:, 0, 0].tolist() == [2, 3, 4, 5]


STATES = {
    "board": (odd_envs.Board.observation_space, "auto", 42),
    "small": (image(8, 8), "auto", 64),
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
        (image(64, 64, high=1), ["(64, 64) uint8", "4,096"]),
    ],
)
def test_a_picture_is_not_flattened_unasked(space, words):
    message = input_error(made, emits(space))
    assert all(word in message for word in [*words, "--obs state"]), message
    assert made(emits(space), obs="state").reset(seed=1)[0].ndim == 1


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


# --- wrappers for training ---


@pytest.mark.parametrize("steps", [75, 60])  # in an episode; right after an end
def test_what_a_wrapper_has_learned_is_resumed(steps, tmp_path):
    changes = {"env_id": "odd_envs:Walk-v0", "training_wrappers": ("odd_envs:Curriculum",)}
    train("sac_drq", tmp_path / "grown", total_timesteps=steps, **changes)
    assert checkpoint(tmp_path / "grown")["envs"][0]["learned"] != [{"level": 1.0, "total": 0.0}]
    resume("sac_drq", tmp_path / "grown", total_timesteps=140)
    train("sac_drq", tmp_path / "direct", total_timesteps=140, **changes)
    assert_same_training(tmp_path / "grown", tmp_path / "direct")


@pytest.mark.parametrize(
    "env_id, wrapper, word",
    [
        ("odd_envs:Walk-v0", "odd_envs:NumPyCurriculum", "state_dict"),
        ("odd_envs:Walk-v0", "odd_envs:Cropped", "observation space"),
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


# --- MuJoCo by class ---

MINE = {
    "gymnasium": "from gymnasium.envs.mujoco.hopper_v5 import HopperEnv as Base; arguments = ()",
    "dm_control": "from dm_control import suite; arguments = [suite.load('cartpole', 'balance')]; "
    "from shimmy.dm_control_compatibility import DmControlCompatibilityV0 as Base",
}
SUBCLASS = """
import gymnasium
class Mine(Base):
    def __init__(self, **kwargs):
        super().__init__(*arguments, **kwargs)
gymnasium.register("Mine-v0", Mine, max_episode_steps=5)
"""


@pytest.mark.parametrize("library", MINE)
@pytest.mark.parametrize("fields", [{"obs": "pixels"}, {"render_mode": "rgb_array"}], ids=str)
def test_a_subclass_of_a_mujoco_environment_draws_without_a_screen(library, fields, tmp_path):
    (tmp_path / "mine.py").write_text(MINE[library] + SUBCLASS)
    code = (
        f"from cleanrl_cc.common.envs import make_env; env = make_env('mine:Mine-v0', **{fields}); "
        "obs, _ = env.reset(seed=1); picture = env.render() if env.render_mode else obs; "
        "assert picture.dtype == 'uint8' and picture.std() > 1"
    )
    hidden = ("MUJOCO_GL", "PYOPENGL_PLATFORM", "CLEANRL_CC_GL", "DISPLAY", "WAYLAND_DISPLAY")
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    environment |= {"PYTHONPATH": f"{TESTS.parent}{os.pathsep}{tmp_path}"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_environment_s_record_of_an_episode_stays_its_own():
    env = make_env("odd_envs:InfoNumber-v0")
    env.reset(seed=1)
    for _ in range(30):
        *_, info = env.step(np.zeros(1, np.float32))
    assert info["episode"] == 30 and info[EPISODE]["l"] == 30


def test_an_error_names_environment_and_step():
    with pytest.raises(InputError, match="Environment 0 of odd_envs:Raises-v0 failed with AssertionError"):
        env = make_env("odd_envs:Raises-v0")
        env.reset()
        for _ in range(200):
            env.step(np.zeros(1, np.float32))
