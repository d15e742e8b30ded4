"""Ranges as types, `batch_size: Size = 256`, and whole numbers that may be typed as 1e6."""

import contextlib
import math
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Literal, Union, get_args, get_origin

from tyro.constructors import PrimitiveConstructorSpec


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`, both included; without `low` itself where the range is `open`."""

    low: int
    high: int
    open: bool = False

    def expected(self, value: float) -> str | None:
        """What was expected instead of `value`, in words; None inside the range."""
        if self.open and value <= self.low:
            return f"above {self.low}"
        if value < self.low:
            return f"at least {self.low:_}"
        if value > self.high:
            return f"at most {self.high:_}"  # as it may be typed
        return None


def read_whole(words: list[str]) -> int:
    """The number typed as 1000000, 1_000_000 or 1e6. Raises ValueError."""
    (word,) = words
    with contextlib.suppress(ValueError):
        return int(word)
    with contextlib.suppress(ValueError):
        if (number := float(word)).is_integer():
            return int(number)
    raise ValueError(f"{word} is not a whole number")


Whole = Annotated[
    int,
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT",
        instance_from_str=read_whole,
        is_instance=lambda value: type(value) is int,
        str_from_instance=lambda value: [str(value)],
    ),
]
# The upper bounds are far above what anyone trains, and below what would choke a machine.
Count = Annotated[Whole, Range(1, 2**53)]  # steps, transitions, updates: exact as floats, too
Steps = Annotated[Whole, Range(0, 2**53)]  # the same, where 0 means none or never
Size = Annotated[Whole, Range(1, 65_536)]  # a batch, or what runs side by side
Width = Annotated[Whole, Range(1, 4_096)]  # a layer
Small = Annotated[Whole, Range(1, 1_024)]  # what each step pays for: a window, a picture, a pass
Seed = Annotated[Whole, Range(0, 2**32 - 1)]  # all that NumPy takes
Bins = Annotated[Whole, Range(2, 1_024)]  # what stands for a continuum
Unit = Annotated[float, Range(0, 1)]
Nonnegative = Annotated[float, Range(0, 1_000)]
Positive = Annotated[float, Range(0, 10**9, open=True)]
Real = Annotated[float, Range(-(10**9), 10**9)]
LogStd = Annotated[float, Range(-20, 10)]  # beyond, actions are lost in the noise

WORDS = {int: "a whole number", float: "a number", bool: "True or False", str: "text", type(None): "None"}


def admits(kind, number: type) -> bool:
    """Whether a field of type `kind` may be a `number`, int or float."""
    return kind is number or any(admits(part, number) for part in get_args(kind))


def expected(value, kind) -> str | None:
    """What a field of type `kind` takes, in words, where `value` is not that; None where it is.

    A whole number is a float, too. A type that no field of ours has takes anything.
    """
    origin = get_origin(kind)
    parts = get_args(kind)
    if origin is Annotated:
        wrong = expected(value, parts[0])
        for part in parts[1:]:
            if isinstance(part, Range):
                wrong = wrong or part.expected(value)
        return wrong
    if origin in (Union, UnionType):
        wrong = [expected(value, part) for part in parts]
        return None if None in wrong else wrong[0]
    if origin is Literal:
        return None if value in parts else f"one of {', '.join(map(str, parts))}"
    if origin is tuple and parts[1:] == (...,):
        if type(value) is not tuple:
            return "a tuple"
        if get_origin(parts[0]) is Literal and not 0 < len(value) == len(set(value)):
            return f"one or more of {', '.join(map(str, get_args(parts[0])))}, each once"
        wrong = [expected(item, parts[0]) for item in value]
        return next((f"a tuple, each item {text}" for text in wrong if text), None)
    if kind is float and type(value) is float:
        return None if math.isfinite(value) else "a finite number"
    fits = kind not in WORDS or type(value) is kind or (kind is float and type(value) is int)
    return None if fits else WORDS[kind]
