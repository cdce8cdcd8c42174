"""How responses to questions of a file are graded: the verifier, and what it may use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from megaent.answers.key import read_key
from megaent.data.options import DataOptions
from megaent.data.rows import read_text_key
from megaent.options import require, require_positive
from megaent.sandbox.isolation import read_given_up
from megaent.sandbox.tests import read_tests

_KEYS: dict[str, Callable[[object], str]] = {"code": read_tests, "remote": read_text_key}
"""How the answer's field is read where it is no mathematical answer."""


@dataclass
class GradedOptions(DataOptions):
    """Fields of the tasks that bring their own questions."""

    reward: str = (
        "math"  # math | exact | choice | code | remote, or a sum as math+0.1*boxed (docs/verifiers.md)
    )
    timeout_s: float = 2.0  # of checking one answer, or of running one program; math's and code's alone
    sandbox_without: str = ""  # isolation that code's programs run without: namespaces, seccomp, or both
    remote_url: str = ""  # of the server behind reward=remote
    remote_batch: int = 64  # responses a request
    remote_timeout_s: float = 60.0  # of a request

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            not self.sandbox_without or self.verifier == "code",
            f"data.sandbox_without is of data.reward=code alone, got {self.reward}; leave it out",
        )
        read_given_up(self.sandbox_without)
        require(
            not self.remote_url or self.verifier == "remote",
            f"data.remote_url is of data.reward=remote alone, got {self.reward}; leave it out",
        )
        require(
            self.verifier != "remote" or self.remote_url.startswith(("http://", "https://")),
            f"data.remote_url must be an address that begins with http://, got {self.remote_url!r}",
        )
        require_positive("data", remote_batch=self.remote_batch, remote_timeout_s=self.remote_timeout_s)

    @property
    def verifier(self) -> str:
        """The first of a sum, whose verdict and whose keys count."""
        return self.reward.split("+")[0].rpartition("*")[2].strip()

    @property
    def kind_of_keys(self) -> str:
        """``code``, ``remote`` or ``answer``: what a verifier expects in a prompt's key."""
        return self.verifier if self.verifier in _KEYS else "answer"

    @property
    def key_of(self) -> Callable[[object], str]:
        """Reads the answer's field. It raises ValueError for a field without a key."""
        return _KEYS.get(self.verifier, read_key)

    @property
    def verifier_options(self) -> dict[str, object]:
        if self.verifier == "remote":
            return {"url": self.remote_url, "batch": self.remote_batch, "timeout_s": self.remote_timeout_s}
        if self.verifier == "code":
            return {"timeout_s": self.timeout_s, "without": self.sandbox_without}
        return {"timeout_s": self.timeout_s} if self.verifier == "math" else {}
