"""What an environment breaks of its promises is told in one sentence, before it is stored."""

import numpy as np
import odd_envs
import pytest
import torch
from gymnasium.envs.classic_control import PendulumEnv
from helpers import checkpoint, input_error, replay, resume, train

from cleanrl_cc.common.envs import make_env
from cleanrl_cc.common.errors import InputError, Stopped

BROKEN = {
    "NoSpace": ["observation_space", "Box", "not None"],
    "NoActions": ["action_space", "Box", "not 3"],
    "NoNumbers": ["observation_space", "(0,)"],
    "NoNumberToGive": ["action_space", "(2, 0)"],
    "LongVector": ["1,000,000,000 numbers", "--wrappers"],
    "OneForThree": ["its space", "(3,)", "(1,)"],
    "FloatsForBytes": ["its space", "uint8", "float64"],
    "MissingKey": ["its space", "place, time"],
    "TooShort": ["its space", "2 parts"],
    "NoSuchNumber": ["its space", "Discrete(4)", "got 4"],
    "InfoNone": ["info", "dict", "None"],
    "InfoProxy": ["info", "must be a dict", "mappingproxy of battery"],
    "ObservesNone": ["its space", "(2,)", "got None"],
    "NoEndOfActions": ["4,294,967,296 actions", "--wrappers"],
    "RewardArray": ["reward", "number", "(1,)"],
    "RewardText": ["reward", "number", "str"],
    "FourValues": ["step()", "terminated, truncated", "4 values"],
    "LimitedFourValues": ["step()", "terminated, truncated", "got 4"],
    "ResetAlone": ["reset()", "observation, info"],
    "NoSeed": ["TypeError", "seed"],
    "DoublePrecision": ["default type to torch.float64", "torch.float32"],
    "Unmade": ["LookupError: no licence", "odd_envs.py"],
    "Unbegun": ["SystemExit: 0", "odd_envs.py"],
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_promise_is_told_at_the_start(name, tmp_path, request):
    request.addfinalizer(lambda: torch.set_default_dtype(torch.float32))
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
    assert "BeyondBounds" in first and "-9 and 9" in first and "holds 10" in first
    assert "reset()" in first and "step()" in second


FAULTS = {
    "NaNObservation": ["observed nan", "place 0 of 2"],
    "InfiniteReward": ["reward inf"],
    "Half": ["reward inf"],
    "TooLarge": ["reward 1e+300"],
    "Shorter": ["an observation that does not fit its space", "shape (2,), got (1,)"],
    "Raises": ["AssertionError: the", "odd_envs.py, line"],
    "Quits": ["SystemExit", "odd_envs.py, line"],
}


LATE = {
    "observe": [
        (np.ones(1, np.float32), "(2,), got (1,)"),  # which NumPy would repeat
        (np.ones((1, 2), np.float32), "(2,), got (1, 2)"),
        (np.ones(2, complex), "float32, got complex128"),
        ({"place": 1}, "(2,), got a dict of place"),
        (None, "(2,), got None"),
    ],
    "reward": [
        (np.ones(1), "an array of shape (1,) as its reward"),
        ("1.0", "a str as its reward"),
        (1j, "a complex as its reward"),
        (None, "None as its reward"),
    ],
    "tell": [(None, "None as its info"), ([], "a list as its info")],
}


@pytest.mark.parametrize(
    "method, value, words",
    [(method, value, words) for method, cases in LATE.items() for value, words in cases],
)
def test_a_promise_that_is_broken_later_is_told_with_its_step(method, value, words, monkeypatch):
    env = make_env("odd_envs:Walk-v0")
    env.reset()
    for _ in range(9):
        env.step(np.zeros(1, np.float32))
    monkeypatch.setattr(odd_envs.Walk, method, lambda self: value)
    message = input_error(env.step, np.zeros(1, np.float32))
    assert message.startswith("Environment 0 of odd_envs:Walk-v0 returned ")
    assert words in message and message.endswith(", in step 10 of its episode 1.")


@pytest.mark.parametrize("place, name", [(2, "terminated"), (3, "truncated")])
@pytest.mark.parametrize("value", [None, "no", np.zeros(2, bool)])
def test_an_end_that_is_none_is_told_with_its_step(place, name, value, monkeypatch):
    step = odd_envs.Walk.step

    def ends_oddly(self, action):
        result = step(self, action)
        return result if self.time < 10 else (*result[:place], value, *result[place + 1 :])

    monkeypatch.setattr(odd_envs.Walk, "step", ends_oddly)
    env = make_env("odd_envs:Walk-v0")
    env.reset()
    for _ in range(9):
        env.step(np.zeros(1, np.float32))
    message = input_error(env.step, np.zeros(1, np.float32))
    assert f"as {name}, which must be True or False, in step 10 of its episode 1" in message


@pytest.mark.parametrize("result, words", [(np.ones(2), "array of shape (2,)"), ((np.ones(2), None), "None")])
def test_a_later_reset_is_looked_at_too(result, words, monkeypatch):
    env = make_env("odd_envs:Walk-v0")
    env.reset()
    monkeypatch.setattr(odd_envs.Walk, "reset", lambda self, **_: result)
    message = input_error(env.reset)
    assert words in message and message.endswith(", at the beginning of its episode 2.")


@pytest.mark.slow
@pytest.mark.parametrize("num_envs", [1, 2])
@pytest.mark.parametrize(
    "name, script",
    [*((name, "sac_drq") for name in FAULTS)]
    # what a rollout or priorities keep of the steps before
    + [(name, script) for name in ("Half", "Raises") for script in ("ppo_continuous", "rainbow")],
)
def test_a_fault_is_told_before_it_is_stored(name, script, num_envs, tmp_path, monkeypatch):
    monkeypatch.setattr("cleanrl_cc.common.envs.usable_cores", lambda: 2)
    changes = {"env_id": f"odd_envs:{name}-v0", "total_timesteps": 120 * num_envs, "num_envs": num_envs}
    message = input_error(train, script, tmp_path / "run", checkpoint_frequency=40, **changes)
    assert (
        f"Environment 0 of odd_envs:{name}-v0" in message or f"Environment 1 of odd_envs:{name}-v0" in message
    )
    assert "in step 11 of its episode 4" in message
    assert all(word in message for word in FAULTS[name]), message
    assert np.isfinite(replay(tmp_path / "run")["rewards"]).all()
    monkeypatch.setattr(getattr(odd_envs, name), "steps", -(10**6))  # it is mended
    resume(script, tmp_path / "run")
    assert checkpoint(tmp_path / "run")["global_step"] >= 120 * num_envs


def test_a_first_observation_that_is_not_finite_is_told(monkeypatch):
    monkeypatch.setattr(PendulumEnv, "reset", lambda self, **_: (np.array([0, np.nan, 0], np.float32), {}))
    message = input_error(make_env("Pendulum-v1").reset)
    assert "observed nan in place 1 of 3, at the beginning of its episode 1" in message


def test_an_error_names_environment_and_step():
    with pytest.raises(InputError, match="Environment 0 of odd_envs:Raises-v0 failed with AssertionError"):
        env = make_env("odd_envs:Raises-v0")
        env.reset()
        for _ in range(200):
            env.step(np.zeros(1, np.float32))


class Panic(BaseException):
    """As what an environment written in Rust raises."""


def raising(error: BaseException):
    def reward(walk):
        raise error

    return reward


@pytest.mark.parametrize("end", [Stopped(130), InputError("A sentence.")])
def test_what_ends_a_run_on_purpose_is_no_fault_of_the_environment(end, monkeypatch):
    monkeypatch.setattr(odd_envs.Walk, "reward", raising(end))
    env = make_env("odd_envs:Walk-v0")
    env.reset()
    with pytest.raises(SystemExit) as caught:
        env.step(np.zeros(1, np.float32))
    assert caught.value is end


@pytest.mark.parametrize("end", [SystemExit(1), SystemExit("the window was closed"), Panic("unwrap")])
def test_an_environment_that_ends_the_process_is_named_with_its_step(end, monkeypatch):
    monkeypatch.setattr(odd_envs.Walk, "reward", raising(end))
    env = make_env("odd_envs:Walk-v0")
    env.reset()
    message = input_error(env.step, np.zeros(1, np.float32))
    assert f"{type(end).__name__}: {end}" in message and "in step 1 of its episode 1" in message


def test_a_picture_whose_numbers_grow_too_large_later_is_told():
    env = make_env("odd_envs:Brightening-v0", frame_stack=1, image_size=40)
    env.reset()
    message = input_error(lambda: [env.step(np.zeros(1, np.float32)) for _ in range(300)])
    assert "expected uint8, got numbers from 256 to 256" in message


@pytest.mark.slow
@pytest.mark.parametrize("num_envs", [1, 2])
def test_a_fault_while_closing_does_not_end_a_run_that_is_done(num_envs, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("cleanrl_cc.common.envs.usable_cores", lambda: 2)
    changes = {"env_id": "odd_envs:Unclosed-v0", "total_timesteps": 60, "num_envs": num_envs}
    assert np.isfinite(train("sac_drq", tmp_path / "run", **changes))
    warnings = [line for line in capfd.readouterr().err.splitlines() if "closed already" in line]
    assert len(warnings) == num_envs + 1  # and that of evaluations
    assert all(line.startswith("Warning: Environment") for line in warnings)


def test_a_fault_while_closing_before_the_first_reset_is_told(capsys):
    make_env("odd_envs:Unclosed-v0").close()
    assert "RuntimeError: closed already" in (told := capsys.readouterr().err)
    assert told.strip().endswith(", before its first episode.")


def test_the_environment_is_not_blamed_for_the_agent():
    env = make_env("Pendulum-v1")
    env.reset()
    with pytest.raises(InputError, match=r"actions .* step 1 of episode 1.*learning rate"):
        env.step(np.full(1, np.nan, np.float32))
