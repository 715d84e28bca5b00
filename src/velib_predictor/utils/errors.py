"""The errors that people see. Each says what, where, what was expected, and what to do.

The exit codes are part of the command line's contract: 0 ok, 1 failure, 2 usage, 3 degraded or stale
data, 4 upstream unreachable, 130 interrupted.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    OK = 0
    FAILURE = 1
    USAGE = 2
    DEGRADED = 3
    UNREACHABLE = 4
    INTERRUPTED = 130


class VelibError(Exception):
    """A failure that is explained in one plain message; the command line prints it without a traceback."""

    exit_code = ExitCode.FAILURE


class UsageError(VelibError):
    """What was asked for cannot be meant: an unknown name, a bad value, a naive time."""

    exit_code = ExitCode.USAGE


class SettingsError(UsageError):
    """A setting is unknown or has a value that is not allowed."""


class DegradedError(VelibError):
    """The data is there but stale, frozen or suspicious."""

    exit_code = ExitCode.DEGRADED


class UnreachableError(VelibError):
    """A feed could not be fetched."""

    exit_code = ExitCode.UNREACHABLE
