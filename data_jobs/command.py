"""What every job's command line does alike: flags from a dataclass, errors in one line, honest exit codes.

A job is `Config` (a frozen dataclass whose field docstrings are its `--help`) and `run(config)`. Exit codes:
0 done, 1 ran and found problems (where a job says so), 2 cannot run, 130 stopped by Ctrl-C.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import tyro

from data_jobs.errors import InputError

C = TypeVar("C")


def positive(name: str, value: float) -> None:
    """Raise InputError (bad_arguments) unless `value` of flag `name` is above zero."""
    if not value > 0:
        flag = f"--{name.replace('_', '-')}"
        raise InputError(
            "bad_arguments",
            f"{flag} is {value}; it must be above 0.",
            f"Give a {flag} above 0, or leave it out for its default.",
        )


def within(name: str, value: float, low: float, high: float) -> None:
    """Raise InputError (bad_arguments) unless `low` <= `value` <= `high` for flag `name`."""
    if not low <= value <= high:
        flag = f"--{name.replace('_', '-')}"
        limits = f"at least {low}" if high == float("inf") else f"from {low} to {high}"
        raise InputError(
            "bad_arguments",
            f"{flag} is {value}; it must be {limits}.",
            f"Give a {flag} within these, or leave it out for its default.",
        )


def outside(output: str | Path, *inputs: str | Path | None) -> None:
    """Raise InputError (input_inside_output) if one of `inputs` is in the directory `output`, which is replaced."""
    folder = Path(output).resolve()
    for path in inputs:
        if path is not None and folder in Path(path).resolve().parents:
            raise InputError(
                "input_inside_output",
                f"The input {path} is inside the output directory {output}, which is replaced.",
                "Choose another output directory.",
            )


def main(config_class: type[C], run: Callable[[C], Any], description: str | None) -> None:
    """Parse `sys.argv` into `config_class`, run the job and exit with its code.

    `run` may return an int to set the exit code. InputError and OSError are printed without a stack trace, unless
    CLIP_DEBUG is set. `run` may raise KeyboardInterrupt with what to say about a stopped job.
    """
    name = (
        run.__module__
        if run.__module__ != "__main__"
        else getattr(sys.modules["__main__"].__spec__, "name", None)
    )
    config = tyro.cli(config_class, prog=name and f"python -m {name}", description=description)
    try:
        result = run(config)
    except InputError as error:
        if os.environ.get("CLIP_DEBUG"):
            raise
        print(f"error ({error.code}): {error.message}\n  {error.suggestion}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:  # no permission, no such place, a full disk
        if os.environ.get("CLIP_DEBUG"):
            raise
        cause = getattr(error, "cause", error)  # of a Ray task's error, which says its stack trace
        print(
            f"error (input_output): {cause}\n  Check that the place exists, is writable and has room.",
            file=sys.stderr,
        )
        sys.exit(2)
    except KeyboardInterrupt as stop:
        print(f"stopped; {stop if str(stop) else 'nothing half-written was left behind'}", file=sys.stderr)
        sys.exit(130)
    sys.exit(result if isinstance(result, int) else 0)
