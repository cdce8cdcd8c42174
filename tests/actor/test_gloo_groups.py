"""What the groups of a process cost where nothing is computed: threads that wake."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.full

ASK = """
import json, pathlib, torch
from megaent.actor.parallel import init_parallel
from megaent.actor.sizes import Sizes

def threads():
    names = [path.read_text() for path in pathlib.Path("/proc/self/task").glob("*/comm")]
    return sum("gloo" in name for name in names)

found = {"before": threads()}
layout = init_parallel(Sizes(), device=torch.device("cpu"), timeout_s=60, seed=1)
everyone, replicas = layout.gather_everywhere(7), layout.gather_over_replicas([7])
found |= {"laid": threads(), "everyone": everyone, "replicas": replicas}
print(json.dumps(found))
"""


def test_a_process_has_a_few_groups_however_many_roles() -> None:
    """Three threads a group: of all ranks, of Megatron's roles, of the replica."""
    said = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True).stdout
    found = json.loads(said.splitlines()[-1])
    assert found["before"] == 0
    assert 0 < found["laid"] <= 9
    assert (found["everyone"], found["replicas"]) == ([7], [7])
