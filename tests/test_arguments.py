"""The type of a field says what it takes, be it filled by command line, file, checkpoint or Python."""

import math
from typing import get_args, get_type_hints

import pytest
from helpers import SCRIPTS, input_error, load_script

from cleanrl_cc.common.arguments import check_args
from cleanrl_cc.common.ranges import Range, expected

KINDS = {script: get_type_hints(load_script(script).Args, include_extras=True) for script in SCRIPTS}


def parts(kind) -> list:
    """A type hint taken apart: unions, tuples, choices, ranges."""
    return [kind, *(part for inner in get_args(kind) for part in parts(inner))]


def ranges(kind) -> list[Range]:
    return [part for part in parts(kind) if isinstance(part, Range)]


def args_with(script: str, name: str, value):
    return load_script(script).Args(**{name: value})


each_field = pytest.mark.parametrize(
    ("script", "name"), [(script, name) for script, kinds in KINDS.items() for name in kinds]
)
each_number = pytest.mark.parametrize(
    ("script", "name", "limits"),
    [
        pytest.param(script, name, limits, id=f"{script}-{name}")
        for script, kinds in KINDS.items()
        for name, kind in kinds.items()
        for limits in ranges(kind)
    ],
)


@each_field
def test_a_field_refuses_what_is_not_of_its_type(script, name):
    kind = KINDS[script][name]
    for value in (None, True, "word", 2.5, 3, [1], (1, 2), {}):
        if expected(value, kind):
            message = input_error(check_args, args_with(script, name, value))
            assert message.startswith(f"--{name.replace('_', '-')} must be "), message
            assert message.endswith(f", not {value!r}."), message
    assert expected({}, kind)
    assert (expected(None, kind) is None) == (type(None) in parts(kind))


@each_field
def test_every_number_is_bounded(script, name):
    kind = KINDS[script][name]
    assert bool({int, float} & set(parts(kind))) == (len(ranges(kind)) == 1)


@each_number
def test_a_number_is_taken_up_to_its_bounds_and_not_beyond(script, name, limits):
    whole = int in parts(KINDS[script][name])
    just_above = limits.low + 1 if whole else math.nextafter(limits.low, math.inf)
    for value in (just_above if limits.open else limits.low, limits.high):
        check_args(args_with(script, name, value))
    refused = [limits.high + 1, 10**40, *([limits.low] if limits.open else [])]
    for value in (limits.low - 1, *refused, math.nan, math.inf, -math.inf):
        message = input_error(check_args, args_with(script, name, value))
        assert message.startswith(f"--{name.replace('_', '-')} must be ") and repr(value) in message


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


def test_a_field_of_your_own_may_have_any_type():
    assert expected({"a": 1}, dict[str, int]) is None
    assert expected((64, 32), tuple[int, int]) is None
    assert expected(math.nan, float) == "a finite number"
