"""Constants from what ``megaent bench ops --device cuda`` found on a card: its own rooflines."""

from __future__ import annotations

import json
import statistics
from math import inf
from pathlib import Path
from typing import Any

from megaent.errors import ConfigError
from megaent.plan.cluster import Cluster

_CAPABILITY = {"ampere": "8", "hopper": "9", "blackwell": "10"}
_PRODUCT, _TRAFFIC = "matrix product, FLOP", "copy, B"  # as megaent.bench names its rooflines


def measured_constants(path: Path, cluster: Cluster) -> dict[str, float]:
    """``gemm_share`` of the cluster's generation and ``memory_share``, as far as the file has them.

    Medians over bf16 cases; a share above 1 says that the file is of another card. Raises ConfigError.
    """
    report = _read(path)
    _require_card(path, report["machine"], cluster)
    rooflines = [case["roofline"] for case in report["cases"] if case["dtype"] == "bf16"]
    peaks = {
        f"gemm_share_{cluster.generation}": (_PRODUCT, cluster.bf16_tflops * 1e12 * cluster.clock_share),
        "memory_share": (_TRAFFIC, cluster.memory_gbps * 1e9),
    }
    found = {}
    for name, (kind, peak) in peaks.items():
        rates = [one["per_s"] for one in rooflines if one["what"] == kind]
        if rates:
            found[name] = statistics.median(rates) / peak
    _require_shares(path, found, cluster)
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        report = json.loads(path.read_text())
        rates = [
            (case["dtype"], case["roofline"]["what"], case["roofline"]["per_s"]) for case in report["cases"]
        ]
        is_report = isinstance(report["machine"], dict) and all(0 < rate < inf for *_, rate in rates)
    except OSError as error:
        raise ConfigError(f"measured={path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError):
        is_report = False
    if not is_report:
        raise ConfigError(f"measured={path} is no report of `megaent bench ops --device cuda --out DIR`")
    return report


def _require_card(path: Path, machine: dict[str, Any], cluster: Cluster) -> None:
    capability = str(machine.get("compute_capability", ""))
    expected = _CAPABILITY[cluster.generation]
    if capability.partition(".")[0] != expected:
        found = f"{machine.get('name', 'a processor')}, compute capability {capability or 'none'}"
        raise ConfigError(
            f"measured={path} is of {found}, and {cluster.name} has {expected}.x; measure on such a card"
        )


def _require_shares(path: Path, found: dict[str, float], cluster: Cluster) -> None:
    if not found:
        raise ConfigError(f"measured={path} has no bf16 case; run `megaent bench ops --device cuda`")
    for name, share in found.items():
        if share > 1:
            raise ConfigError(
                f"measured={path}: {name} would be {share:.2f}; {cluster.name} is not the card measured"
            )
