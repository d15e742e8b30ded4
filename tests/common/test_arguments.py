"""How a run's arguments come together, and how they are explained."""

import re
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from helpers import SCRIPTS, checkpoint, flags, input_error, load_script, parse, resume, train

from cleanrl_cc.common.arguments import RunArgs, check_args, describe_fields, parse_args
from cleanrl_cc.common.checkpoints import save_checkpoint


@pytest.mark.parametrize("script", SCRIPTS)
def test_defaults_and_presets_fit_their_types(script):
    module = load_script(script)
    for changes in ({}, *module.PRESETS.values()):
        check_args(module.Args(**changes))


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(
    "changes", [{"num_envs": 10**6}, {"hidden_dim": 10**7}, {"gamma": "0.9"}, {"eval_episodes": 0}]
)
def test_python_is_checked_like_the_command_line(script, changes, tmp_path):
    module = load_script(script)
    args = module.Args(env_id="Pendulum-v1", runs_dir=str(tmp_path / "runs"), **changes)
    assert next(iter(changes)).replace("_", "-") in input_error(module.train, args)
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_python_resumes_a_run_only_with_its_own_arguments(tmp_path):
    train("td3", tmp_path / "run", total_timesteps=60)
    saved = checkpoint(tmp_path / "run")["args"]
    td3 = load_script("td3")
    for changes in ({"learning_rate": 0.5}, {"seed": 9}, {"total_timesteps": 50}):
        args = td3.Args(**saved | {"resume": str(tmp_path / "run")} | changes)
        assert next(iter(changes)).replace("_", "-") in input_error(td3.train, args)
    args = td3.Args(**saved | {"resume": str(tmp_path / "run"), "total_timesteps": 80, "matmul": "auto"})
    td3.train(args)
    assert checkpoint(tmp_path / "run")["args"]["matmul"] == saved["matmul"]
    assert checkpoint(tmp_path / "run")["global_step"] == 80


# --- how they are explained ---


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_shows_every_field_in_the_group_of_its_comment(script, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")  # a wide terminal shows groups side by side
    with pytest.raises(SystemExit) as caught:
        parse(script, ["--help"])
    assert caught.value.code == 0
    shown, group = {}, None
    for line in capsys.readouterr().out.splitlines():  # in boxes where the terminal has Unicode
        if title := re.match(r"(?:╭─)? (.+) options ", line):
            group = title[1]
        elif flag := re.match(r"[│ ] (--[\w-]+)", line):
            shown[flag[1]] = group
    described = describe_fields(load_script(script).Args)
    assert shown == {f"--{name.replace('_', '-')}": group for name, (group, _) in described.items()}
    assert list(dict.fromkeys(shown.values()))[:4] == ["Run", "Environment", "Machine", "Run folder"]


def test_a_field_is_explained_with_the_same_words_in_every_script():
    words = {}
    for script in SCRIPTS:
        for name, (_, text) in describe_fields(load_script(script).Args).items():
            assert text and text[-1] != ".", f"{script}: {name}"
            assert words.setdefault(name, text) == text, f"{script}: {name}"


@dataclass
class Copy(RunArgs):
    """A reader's own Args."""

    # Mine
    plain: int = 3
    wide: tuple[int, int] = (1, 2)
    """two numbers"""


def test_a_field_without_a_group_or_a_docstring_is_a_flag_all_the_same():
    described = describe_fields(Copy)
    assert described["plain"] == ("Mine", "")
    args = parse_args(Copy, {}, ["--plain", "5", "--wide", "3", "4"])
    assert (args.plain, args.wide) == (5, (3, 4))


class Colour(Enum):
    RED = 1


@dataclass
class Unkept(RunArgs):
    """What could be written to no checkpoint, or not be read back."""

    mine: object = 0
    own: float = field(default=1.0, init=False)


@dataclass
class Doubling(RunArgs):
    hidden_dim: int = 32

    def __post_init__(self):
        self.hidden_dim *= 2


@pytest.mark.parametrize("value", [Path("data"), Colour.RED, {1, 2}, [{"a": Path("data")}], RunArgs()])
def test_a_field_that_no_checkpoint_can_hold_is_told_at_the_start(value):
    message = input_error(check_args, Unkept(mine=value))
    assert message.startswith("--mine must be numbers, text") and message.endswith(f"not {value!r}.")


def test_arguments_that_a_resumed_run_would_not_find_again_are_told_at_the_start():
    assert "'own'" in input_error(check_args, Unkept())
    assert "--hidden-dim is 64 and would be 128" in input_error(check_args, Doubling())
    check_args(Doubling(hidden_dim=0))


# --- presets ---


@pytest.mark.parametrize(
    "preset, words",
    [
        ({"sead": 3}, ["PRESETS['Mine-v0']: sead", "did you mean seed?"]),
        ({"seed": -1}, ["--seed", "at least 0"]),
        ({"seed": "3"}, ["--seed", "whole number"]),
        ({"training_wrappers": ["RoadRules"]}, ["--training-wrappers", "a tuple"]),
    ],
)
def test_a_preset_that_does_not_fit_is_told(preset, words, recwarn):
    message = input_error(parse_args, RunArgs, {"Mine-v*": {}, "Mine-v0": preset}, ["--env-id", "Mine-v0"])
    assert all(word in message for word in words), message
    assert not recwarn.list


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_preset_changes_defaults_and_a_flag_beats_it(script):
    presets = load_script(script).PRESETS
    assert "CarRacing-v3" in presets
    for env_id in ("CarRacing-v3", "LunarLander-v3"):
        args = asdict(parse(script, ["--env-id", env_id, "--seed", "7"]))
        plain = asdict(load_script(script).Args())
        assert args == plain | presets.get(env_id, {}) | {"env_id": env_id, "seed": 7}
    total = parse(script, ["--env-id=CarRacing-v3"]).total_timesteps
    assert (
        parse(script, ["--env-id=CarRacing-v3", "--total-timesteps", str(total + 1)]).total_timesteps
        == total + 1
    )


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_best_policy_of_car_racing_is_chosen_by_20_episodes(script):
    # with ten of a deviation of 185 the standard error is 58
    assert parse(script, ["--env-id", "CarRacing-v3"]).eval_episodes >= 20


def test_a_whole_number_for_a_float_becomes_one():
    td3, ppo = load_script("td3"), load_script("ppo_continuous")
    args = parse_args(td3.Args, {"Pendulum-v1": {"exploration_noise": 1}}, ["--env-id", "Pendulum-v1"])
    assert type(args.exploration_noise) is float and type(args.seed) is int
    args = td3.Args(exploration_noise=1, final_exploration_noise=0, total_timesteps=1000)
    check_args(args)
    assert type(args.final_exploration_noise) is float and type(args.total_timesteps) is int
    args = ppo.Args(initial_log_std=-1, target_kl=None)
    check_args(args)
    space = Box(-1, 1, (2,), np.float32)
    assert ppo.Agent(args, space, space, torch.device("cpu")).log_std.tolist() == [-1.0, -1.0]


@pytest.mark.parametrize("flag", ["--env-id", "--resume", "--config", "--seed"])
def test_a_flag_without_its_value_is_told_alone(flag, capsys):
    with pytest.raises(SystemExit) as end:
        parse(SCRIPTS[0], [flag])
    assert end.value.code == 2
    told = capsys.readouterr().err
    assert f"Missing value for argument '{flag}'" in told and "usage" not in told


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_pattern_matches_a_family_of_environments(script):
    family = {key: changes for key, changes in load_script(script).PRESETS.items() if key == "dm_control/*"}
    for changes in family.values():
        args = asdict(parse(script, ["--env-id", "dm_control/walker-walk-v0"]))
        assert changes.items() <= args.items()


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_shows_the_defaults_of_the_environment(script, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    with pytest.raises(SystemExit) as caught:
        parse(script, ["--env-id", "CarRacing-v3", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert caught.value.code == 0
    for name, value in load_script(script).PRESETS["CarRacing-v3"].items():
        flag, shown = name.replace("_", "-"), " ".join(value) if isinstance(value, tuple) else str(value)
        assert re.search(rf"--{flag} ((?!--).)*default: {re.escape(shown)}\)", text), name


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, value", [("env_id", "mine:Mine-v0"), ("wrappers", ("mine:W",)), ("training_wrappers", ("mine:W",))]
)
def test_a_module_that_a_checkpoint_names_is_imported_only_where_it_is_typed(name, value, tmp_path):
    train("td3", tmp_path / "run", total_timesteps=20)
    state = checkpoint(tmp_path / "run")
    save_checkpoint(tmp_path / "run" / "last.pt", state | {"args": state["args"] | {name: value}})
    message = input_error(resume, "td3", tmp_path / "run")
    assert "'mine', which could run any code" in message and f"add {flags({name: value})[0]} mine:" in message
