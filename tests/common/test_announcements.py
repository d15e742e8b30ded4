"""What is kept is said once, and not at all where it was forgotten."""

import pytest

from cleanrl_cc.common import announcements


@pytest.fixture(autouse=True)
def nothing_kept():
    announcements.forget()
    yield
    announcements.forget()


def test_what_is_kept_is_told_once_and_in_order(capsys):
    announcements.keep("first")
    announcements.keep("second")
    assert capsys.readouterr().err == ""
    announcements.tell()
    announcements.tell()
    assert capsys.readouterr().err == "first\nsecond\n"


def test_what_is_forgotten_is_not_told(capsys):
    announcements.keep("first")
    announcements.forget()
    announcements.tell()
    assert capsys.readouterr().err == ""
