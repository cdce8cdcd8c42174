"""``rollout=sglang`` on the command line: what composes, and what is refused before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from megaent.config.composition import compose_config
from megaent.errors import ConfigError
from megaent.rollout.options import Leader
from megaent.rollout.sglang.options import SGLangOptions, SyncOptions
from megaent.run.launch_sglang import on_own_gpus, outlasting_pauses, start_sglang

DEMO = ("experiment=demo", "rollout=sglang")


def test_the_demonstration_composes_with_sglang() -> None:
    rollout = compose_config([*DEMO, "+rollout.server_args.tp_size=2", "rollout.sync.transport=disk"])[
        0
    ].rollout
    assert isinstance(rollout, SGLangOptions)
    assert rollout.starts_servers
    assert rollout.server_args == {"tp_size": 2}
    assert rollout.sync.transport == "disk"
    assert rollout.max_new_tokens == 96


def test_servers_may_be_given() -> None:
    rollout = compose_config([*DEMO, "rollout.urls=[http://a:1,http://b:2]"])[0].rollout
    assert (rollout.urls, rollout.starts_servers) == (["http://a:1", "http://b:2"], False)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("rollout.servers=0", "rollout.servers must be above 0"),
        ("rollout.attempts=0", "rollout.attempts must be above 0"),
        ("rollout.dtype=float64", "rollout.dtype must be"),
        ("rollout.context_length=-1", "rollout.context_length"),
        ("rollout.sync.transport=pigeon", "broadcast, disk"),
        ("rollout.sync.pause=never", "retract, abort, in_place"),
        ("rollout.sync.bucket_mib=0", "rollout.sync.bucket_mib"),
        ("rollout.sync.check_every=-1", "rollout.sync.check_every"),
        ("rollout.api_key_variable=KEY", "no effect on servers that this run starts"),
        ("rollout.batch_size=3", "batch_size"),
        ("rollout.sync.bucket_mb=3", "bucket_mib"),
    ],
)
def test_a_wrong_option_is_refused(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        compose_config([*DEMO, override])


@pytest.mark.parametrize(
    "override",
    [
        "rollout.servers=2",
        "rollout.threads=2",
        "rollout.python=/x",
        "+rollout.server_args.tp_size=2",
        "rollout.colocated=true",
    ],
)
@pytest.mark.parametrize("given", ["rollout.urls=[http://a:1]", "rollout.router=http://a:1"])
def test_an_option_of_our_servers_is_refused_for_others(given: str, override: str) -> None:
    with pytest.raises(ConfigError, match="has no effect on servers given by rollout"):
        compose_config([*DEMO, given, override])


def test_servers_of_one_machine_take_gpus_of_their_own() -> None:
    given = {"tp_size": 2, "pp_size": 2, "base_gpu_id": 1}
    assert [on_own_gpus(given, place)["base_gpu_id"] for place in range(3)] == [1, 5, 9]
    assert on_own_gpus({}, 3) == {"base_gpu_id": 3}


def test_a_server_paused_in_place_is_not_ended_by_its_watchdog_while_it_takes_weights() -> None:
    def arguments(pause: str, timeout_s: float, **given: object) -> dict[str, object]:
        sync = SyncOptions(pause=pause, timeout_s=timeout_s)
        return dict(outlasting_pauses(SGLangOptions(sync=sync, server_args=given)))

    assert arguments("in_place", 600.0) == {"watchdog_timeout": 1200.0}
    assert arguments("in_place", 5.0, tp_size=2) == {"watchdog_timeout": 300.0, "tp_size": 2}
    assert arguments("in_place", 600.0, watchdog_timeout=60) == {"watchdog_timeout": 60}
    assert arguments("retract", 600.0) == arguments("abort", 600.0) == {}


def test_addresses_and_a_router_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="exclude each other"):
        compose_config([*DEMO, "rollout.urls=[http://a:1]", "rollout.router=http://b:1"])


@pytest.mark.parametrize("wrong", ["rollout.staleness=1", "rollout.sync.only_changed=true"])
def test_servers_that_give_up_their_weights_need_all_of_them_each_time(wrong: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot be combined with rollout\.colocated=true"):
        compose_config([*DEMO, "rollout.colocated=true", wrong])


def test_memory_is_handed_to_our_own_servers_alone() -> None:
    with pytest.raises(ConfigError, match="ipc is for servers that this run starts"):
        compose_config([*DEMO, "rollout.urls=[http://a:1]", "rollout.sync.transport=ipc"])


@pytest.mark.parametrize("override", ["rollout.colocated=true", "rollout.sync.transport=ipc"])
def test_what_is_about_gpus_is_refused_without_them(override: str, tmp_path: Path) -> None:
    config = compose_config([*DEMO, override])[0].rollout
    leader = Leader(
        model=tmp_path,
        run=tmp_path,
        number=0,
        vocab_size=8,
        context_length=64,
        dtype="float32",
        device=torch.device("cpu"),
    )
    with pytest.raises(ConfigError, match=r"about GPUs' memory .* device=cpu"):
        start_sglang(config, leader)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["log_prob_limit=0.1", "checksums=false"])
def test_an_option_of_checks_that_are_not_made_is_refused(option: str) -> None:
    with pytest.raises(ConfigError, match="has no effect with check_every=0"):
        compose_config([*DEMO, "rollout.sync.check_every=0", f"rollout.sync.{option}"])


def test_an_address_for_a_broadcast_that_is_not_made_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"rollout\.sync\.address"):
        compose_config([*DEMO, "rollout.sync.transport=disk", "rollout.sync.address=10.0.0.1"])
