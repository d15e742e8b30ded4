"""What a user reads of an error: one sentence of ours, or one line of someone else's."""

import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

from cleanrl_cc.common.errors import InputError, Stopped, describe, gist, is_foreign, origin, require


def caught(error: BaseException) -> BaseException:
    """The error, raised in the line below and caught."""
    try:
        raise error
    except BaseException as raised:
        return raised


def test_uncaught_it_is_its_sentence_and_exit_code_1():
    code = "from cleanrl_cc.common.errors import require; require(False, 'num_envs', 0, 'at least 1')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "--num-envs must be at least 1, not 0.\n")


def test_what_is_as_required_passes():
    require(True, "num_envs", 1, None)


@pytest.mark.parametrize(
    "error, is_someone_elses",
    [
        (ValueError("no"), True),
        (SystemExit(0), True),
        (SystemExit(), True),
        (SystemExit(1), True),
        (GeneratorExit(), False),
        (Stopped(143), False),
        (InputError("Say yes."), False),
        (KeyboardInterrupt(), False),
    ],
    ids=repr,
)
def test_whose_an_error_is(error, is_someone_elses):
    assert is_foreign(error) == is_someone_elses


def test_an_error_is_described_by_its_type_its_first_line_and_its_place():
    error = caught(ValueError("two\nlines."))
    file, line = origin(error)
    assert file == Path(__file__)
    assert describe(error) == f"ValueError: two (test_errors.py, line {line})"
    assert describe(caught(RuntimeError())) == f"RuntimeError (test_errors.py, line {line})"


def test_an_error_that_was_never_raised_has_no_place():
    assert origin(ValueError("no")) == (None, 0)
    assert describe(ValueError("no.")) == "ValueError: no"


def test_a_syntax_error_says_its_place_itself():
    with pytest.raises(SyntaxError) as raised:
        compile("x = ", "mine.py", "exec")
    assert describe(raised.value) == "SyntaxError: invalid syntax (mine.py, line 1)"


@pytest.mark.parametrize(
    "text, expected",
    [
        ("No room left.", "No room left"),
        ("It failed.\nBecause of this.", "It failed"),
        ("Weights do not fit:\n\tsize 3 and 4.", "Weights do not fit: size 3 and 4"),
        ("Weights do not fit:\n" + "size 3, " * 40, None),
        ("", ""),
    ],
)
def test_the_gist_is_one_line(text, expected):
    line = gist(ValueError(text))
    if expected is None:
        assert line.startswith("Weights do not fit: size 3, ") and line.endswith("and others")
        assert len(line) < 200
    else:
        assert line == expected
