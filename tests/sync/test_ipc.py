"""What can be said of CUDA IPC without a card: it is refused with the way out."""

from __future__ import annotations

import pytest
import torch

from megaent.errors import ConfigError
from megaent.rollout.sglang.control import Control
from megaent.sync.ipc import IpcTransport, require_same_torch


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card; `./scripts/test -m gpu` uses it")
def test_without_a_card_it_is_refused(control: Control) -> None:
    with pytest.raises(ConfigError, match="there is none here; use broadcast or disk"):
        IpcTransport(control, server_torch=torch.__version__)


def test_two_versions_of_torch_do_not_exchange_handles() -> None:
    require_same_torch("2.13.0+cpu", "2.13.0+cu130")
    with pytest.raises(ConfigError, match=r"the trainer has 2\.13\.0\+cu130, the servers have 2\.14\.0"):
        require_same_torch("2.13.0+cu130", "2.14.0")
