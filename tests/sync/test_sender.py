"""What servers hold after a publication, and after one that went wrong."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
import torch
from support.weight_server import WeightServer
from torch import Tensor

from megaent.errors import EngineError, NumericsError
from megaent.sync.sender import ServerSender

Weights = Callable[..., dict[str, Tensor]]
Start = Callable[..., WeightServer]
Make = Callable[..., ServerSender]


def assert_holds(server: WeightServer, weights: dict[str, Tensor], version: str) -> None:
    for name, tensor in weights.items():
        assert torch.equal(server.weights[name], tensor), name
    assert server.version == version
    assert not server.is_paused
    assert not server.is_updating


# ---------------------------------------------------------------- all goes well


def test_every_weight_arrives_in_every_server(
    weights: Weights, start_server: Start, make_sender: Make
) -> None:
    servers = [start_server(), start_server()]
    sender = make_sender()
    for version in (1, 2):
        report = sender.send(weights(version).items(), version, servers=[s.url for s in servers])
        for server in servers:
            assert_holds(server, weights(version), str(version))
        assert report.num_bytes == sum(tensor.nbytes for tensor in weights(0).values())
        assert (report.num_tensors, report.num_skipped, report.failed) == (14, 0, {})
    assert servers[0].num_bytes == 2 * report.num_bytes


def test_the_steps_of_a_publication(weights: Weights, start_server: Start, make_sender: Make) -> None:
    server = start_server()
    sender = make_sender()
    sender.send(weights(1).items(), 1, servers=[server.url])
    first = {path: server.asked.index(path) for path in server.asked}
    last = {path: place for place, path in enumerate(server.asked)}
    # The server is paused while it is asked what it can do.
    assert {"/model_info", "/openapi.json", "/server_info", "/init_weights_update_group"} <= first.keys()
    written = first["/update_weights_from_distributed"]
    assert max(last["/pause_generation"], last["/begin_weight_update"]) < written
    in_turn = (
        {"/update_weights_from_distributed"},
        {"/end_weight_update", "/flush_cache"},
        {"/weights_checker"},
        {"/update_weight_version"},
        {"/continue_generation"},
    )
    for before, after in itertools.pairwise(in_turn):
        assert max(last[path] for path in before) < min(last[path] for path in after)
    assert first["/flush_cache"] > last["/update_weights_from_distributed"]
    assert first["/continue_generation"] > last["/update_weight_version"]
    server.asked.clear()
    sender.send(weights(2).items(), 2, servers=[server.url])
    first_time_only = {"/openapi.json", "/server_info", "/init_weights_update_group"}
    assert not first_time_only & set(server.asked)


def test_a_server_without_update_sessions_is_not_asked_for_them(
    weights: Weights, start_server: Start, make_sender: Make
) -> None:
    server = start_server(has_sessions=False)
    make_sender().send(weights(1).items(), 1, servers=[server.url])
    assert_holds(server, weights(1), "1")
    assert "/begin_weight_update" not in server.asked


def test_requests_that_keep_their_cache_forbid_a_flush(
    weights: Weights, start_server: Start, make_sender: Make
) -> None:
    server = start_server()
    make_sender(pause="in_place").send(weights(1).items(), 1, servers=[server.url])
    assert_holds(server, weights(1), "1")
    assert "/flush_cache" not in server.asked


@pytest.mark.parametrize(("pause", "flushes"), [("abort", 2), ("retract", 1)])
def test_requests_that_hold_the_cache_are_retracted_before_it_is_forgotten(
    pause: str, flushes: int, weights: Weights, start_server: Start, make_sender: Make
) -> None:
    """Their trainer was killed while the server was paused in place."""
    server = start_server()
    server.is_held = True
    report = make_sender(pause=pause).send(weights(1).items(), 1, servers=[server.url])
    assert report.failed == {}
    assert_holds(server, weights(1), "1")
    assert server.asked.count("/flush_cache") == flushes
    assert not server.is_held


def test_weights_arrive_in_the_type_of_the_servers(
    weights: Weights, start_server: Start, make_sender: Make
) -> None:
    server = start_server()
    sender = make_sender(dtype=torch.bfloat16, check_every=0)
    report = sender.send(weights(1).items(), 1, servers=[server.url])
    assert report.num_bytes == sum(tensor.numel() * 2 for tensor in weights(1).values())
    assert_holds(server, {name: tensor.bfloat16() for name, tensor in weights(1).items()}, "1")


def test_two_servers_in_one_group_take_one_broadcast(
    weights: Weights, start_server: Start, make_sender: Make
) -> None:
    servers = [start_server(), start_server()]
    make_sender(servers_per_group=2).send(weights(1).items(), 1, servers=[s.url for s in servers])
    for server in servers:
        assert_holds(server, weights(1), "1")


# ---------------------------------------------------------------- only what changed


def test_only_changed_tensors_travel(weights: Weights, start_server: Start, make_sender: Make) -> None:
    server = start_server()
    sender = make_sender(only_changed=True)
    sender.send(weights(1).items(), 1, servers=[server.url])
    changed = weights(1, model__norm__weight=torch.full((8,), 3.0))
    report = sender.send(changed.items(), 2, servers=[server.url])
    assert (report.num_tensors, report.num_skipped, report.num_bytes) == (1, 13, 32)
    assert_holds(server, changed, "2")
    report = sender.send(changed.items(), 3, servers=[server.url])
    assert (report.num_tensors, report.num_bytes) == (0, 0)
    assert_holds(server, changed, "3")


def test_a_restarted_server_is_sent_everything(
    weights: Weights, start_server: Start, make_sender: Make
) -> None:
    servers = [start_server(), start_server()]
    sender = make_sender(only_changed=True)
    sender.send(weights(1).items(), 1, servers=[s.url for s in servers])
    servers[0].begin_anew()
    report = sender.send(weights(1).items(), 2, servers=[s.url for s in servers])
    assert (report.num_tensors, report.failed) == (14, {})
    for server in servers:
        assert_holds(server, weights(1), "2")


def test_a_server_that_was_not_among_the_last_ones_is_sent_everything(
    weights: Weights, start_server: Start, make_sender: Make
) -> None:
    old, new = start_server(), start_server()
    sender = make_sender(only_changed=True)
    sender.send(weights(1).items(), 1, servers=[old.url])
    sender.send(weights(1).items(), 2, servers=[old.url, new.url])
    assert_holds(new, weights(1), "2")


# ---------------------------------------------------------------- something goes wrong


@pytest.mark.parametrize(
    "path",
    [
        "/pause_generation",
        "/init_weights_update_group",
        "/update_weights_from_distributed",
        "/end_weight_update",
        "/flush_cache",
    ],
)
def test_a_refusal_costs_one_server_until_the_next_publication(
    path: str, weights: Weights, start_server: Start, make_sender: Make
) -> None:
    good, bad = start_server(), start_server()
    sender = make_sender(only_changed=True, timeout_s=5.0)
    sender.send(weights(1).items(), 1, servers=[good.url, bad.url])
    if path == "/init_weights_update_group":
        bad.begin_anew()
    bad.refusing = {path}
    report = sender.send(weights(2).items(), 2, servers=[good.url, bad.url])
    assert_holds(good, weights(2), "2")
    assert list(report.failed) == [bad.url]
    assert f"{path} is refused" in report.failed[bad.url]
    assert path == "/pause_generation" or bad.is_paused, "half-written weights must not be used"

    bad.refusing = set()
    report = sender.send(weights(2).items(), 3, servers=[good.url, bad.url])
    assert report.failed == {}
    for server in (good, bad):
        assert_holds(server, weights(2), "3")


def test_a_half_written_server_does_not_go_by_its_old_version(
    weights: Weights, start_server: Start, make_sender: Make
) -> None:
    good, bad = start_server(), start_server()
    sender = make_sender()
    sender.send(weights(1).items(), 1, servers=[good.url, bad.url])
    bad.refusing = {"/update_weights_from_distributed"}
    sender.send(weights(2).items(), 2, servers=[good.url, bad.url])
    assert bad.version == "incomplete"


def test_a_server_that_stands_still_is_left_behind(
    weights: Weights, start_server: Start, make_sender: Make
) -> None:
    good, bad = start_server(), start_server()
    sender = make_sender(timeout_s=2.0)
    bad.stalling = {"/update_weights_from_distributed"}
    report = sender.send(weights(1).items(), 1, servers=[good.url, bad.url])
    assert_holds(good, weights(1), "1")
    assert list(report.failed) == [bad.url]


def test_a_group_fails_as_one(weights: Weights, start_server: Start, make_sender: Make) -> None:
    good, bad = start_server(), start_server()
    sender = make_sender(servers_per_group=2, timeout_s=2.0)
    bad.refusing = {"/update_weights_from_distributed"}
    with pytest.raises(EngineError, match=r"no server took the weights of version 1: .* is refused"):
        sender.send(weights(1).items(), 1, servers=[good.url, bad.url])


def test_without_any_server_left_the_stream_is_still_read(
    weights: Weights, start_server: Start, make_sender: Make
) -> None:
    server = start_server()
    server.refusing = {"/update_weights_from_distributed"}
    stream = iter(weights(1).items())
    with pytest.raises(EngineError, match="no server took the weights of version 1"):
        make_sender().send(stream, 1, servers=[server.url])
    assert next(stream, None) is None


def test_nobody_to_publish_to_is_an_error(weights: Weights, make_sender: Make) -> None:
    with pytest.raises(EngineError, match="no server took the weights of version 1: there is none"):
        make_sender().send(weights(1).items(), 1, servers=[])


def test_a_stream_that_breaks_leaves_no_server_in_use(
    weights: Weights, start_server: Start, make_sender: Make
) -> None:
    server = start_server()
    sender = make_sender(only_changed=True)
    sender.send(weights(1).items(), 1, servers=[server.url])

    def breaking() -> Iterator[tuple[str, Tensor]]:
        for number, pair in enumerate(weights(2).items()):
            if number == 10:
                raise RuntimeError("a rank was lost")
            yield pair

    with pytest.raises(RuntimeError, match="a rank was lost"):
        sender.send(breaking(), 2, servers=[server.url])
    assert server.is_paused
    assert server.version == "incomplete"
    sender.send(weights(3).items(), 3, servers=[server.url])
    assert_holds(server, weights(3), "3")


# ---------------------------------------------------------------- the check of what arrived


def test_a_wrong_bit_names_its_tensor_and_ends_the_run(
    weights: Weights, start_server: Start, make_sender: Make
) -> None:
    server = start_server()
    server.damaged = "model.layers.0.self_attn.k_proj.weight"
    with pytest.raises(NumericsError, match=r"does not hold .*q_proj.weight \+ .*k_proj.weight") as raised:
        make_sender().send(weights(1).items(), 1, servers=[server.url])
    assert "qkv_proj.weight" in str(raised.value)
    assert server.is_paused


def test_a_tensor_that_the_server_does_not_know_is_found(
    weights: Weights, start_server: Start, make_sender: Make
) -> None:
    server = start_server()
    stray = weights(1, model__stray__weight=torch.ones(3))
    with pytest.raises(NumericsError, match=r"has no parameter model\.stray\.weight"):
        make_sender().send(stray.items(), 1, servers=[server.url])


def test_a_tensor_that_was_not_published_is_found(
    weights: Weights, start_server: Start, make_sender: Make
) -> None:
    server = start_server()
    few = weights(1)
    del few["model.norm.weight"]
    with pytest.raises(NumericsError, match=r"holds model\.norm\.weight, for which nothing was published"):
        make_sender().send(few.items(), 1, servers=[server.url])


def test_checks_come_as_often_as_asked(weights: Weights, start_server: Start, make_sender: Make) -> None:
    server = start_server()
    sender = make_sender(check_every=2)
    for version in range(1, 6):
        sender.send(weights(version).items(), version, servers=[server.url])
    assert server.asked.count("/weights_checker") == 3, "after the first, third and fifth"
