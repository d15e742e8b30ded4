"""The type of a field says what it takes, be it filled by command line, file, checkpoint or Python."""

import math
from typing import get_args, get_type_hints

import pytest
from helpers import SCRIPTS, flags, input_error, load_script, parse, train

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


def test_a_field_of_your_own_may_have_any_type():
    assert expected({"a": 1}, dict[str, int]) is None
    assert expected((64, 32), tuple[int, int]) is None
    assert expected(math.nan, float) == "a finite number"


# --- how they are typed ---


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(
    ("word", "number"), [("1e6", 10**6), ("1_000_000", 10**6), ("2.5e3", 2500), ("7", 7)]
)
def test_counts_are_typed_as_one_writes_them(script, word, number, tmp_path):
    counts = {name: number for name, kind in KINDS[script].items() if int in parts(kind)}
    assert {"num_threads", "seed", "hidden_dim"} <= counts.keys()
    (tmp_path / "config.yaml").write_text("".join(f"{name}: {word}\n" for name in counts))
    for words in (flags(dict.fromkeys(counts, word)), ["--config", str(tmp_path / "config.yaml")]):
        args = vars(parse(script, words))
        assert {name: args[name] for name in counts} == counts
        assert all(type(args[name]) is int for name in counts)


@pytest.mark.parametrize("word", ["1.5", "1e-3", "1e999", "nan", "many", ""])
def test_what_is_not_a_whole_number_is_said_so(word, capsys):
    with pytest.raises(SystemExit) as caught:
        parse("td3", [f"--num-envs={word}"])
    assert caught.value.code == 2
    assert f"--num-envs: {word} is not a whole number" in capsys.readouterr().err


def test_a_resumed_run_may_grow_to_1e3_steps(tmp_path):
    train("ddpg", tmp_path / "run", total_timesteps=60)
    args = parse("ddpg", ["--resume", str(tmp_path / "run"), "--total-timesteps", "1e3"])
    assert args.total_timesteps == 1000 and type(args.total_timesteps) is int
