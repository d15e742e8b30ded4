"""The one error that a user sees. Imports nothing of ours."""


class InputError(SystemExit):
    """Something the user can mend: uncaught, it prints its one sentence and exits with code 1."""


def require(condition: bool, name: str, value, expected: str | None):
    """Raises InputError, naming the flag, unless `condition`."""
    if not condition:
        raise InputError(f"--{name.replace('_', '-')} must be {expected}, not {value!r}.")
