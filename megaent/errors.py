"""What can go wrong, by who can mend it.

    MegaentError
    ├── ConfigError       a key, type, value or combination in the configuration
    ├── DataError         a data file or a line of it
    ├── ModelError        a model folder: missing, of another architecture, unreadable
    ├── CheckpointError   a checkpoint: damaged, of another run, unwritable
    ├── EngineError       a rollout engine: no answer in time, a malformed answer
    ├── NumericsError     a loss, gradient or statistic that is not finite, or two that disagree
    ├── PeerError         another process of the run that is not heard from any more
    ├── RunError          a run in a process of its own that ended with an error, with its last words
    ├── Stopped           a run that was asked to stop: saved (10), or left at once (130, 143)
    └── MissingDependency  something absent on this machine, with the command that adds it

The command line prints the message alone and exits with ``exit_code``; a traceback is for our own
defects. Each message says what was expected, what came, and what to do.
"""

from __future__ import annotations


class MegaentError(Exception):
    """Base of every error a person can mend without reading our source."""

    exit_code = 1


class ConfigError(MegaentError):
    exit_code = 2


class DataError(MegaentError):
    exit_code = 3


class ModelError(MegaentError):
    exit_code = 4


class CheckpointError(MegaentError):
    exit_code = 5


class EngineError(MegaentError):
    exit_code = 6


class NumericsError(MegaentError):
    exit_code = 7


class PeerError(MegaentError):
    exit_code = 11


class RunError(MegaentError):
    exit_code = 9


class Stopped(MegaentError):
    def __init__(self, message: str, exit_code: int = 10) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class MissingDependency(MegaentError):
    exit_code = 8
