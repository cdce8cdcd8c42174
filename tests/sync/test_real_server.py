"""Weights in a real SGLang server: there bit for bit, used at once, and none after what went wrong."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.multiprocessing
from support.tiny_hf import save_tiny
from support.weight_server import WeightServer
from torch import Tensor
from transformers import AutoModelForCausalLM

from megaent.errors import EngineError
from megaent.loop.agreement import require_same_log_probs
from megaent.rollout.sglang.control import Control
from megaent.rollout.sglang.prompt_log_probs import read_log_probs, request_of
from megaent.rollout.sglang.server import Server, ServerOptions
from megaent.sync.buckets import Bucketer
from megaent.sync.disk import DiskTransport
from megaent.sync.ipc import handles
from megaent.sync.sender import SenderOptions, ServerSender
from megaent.sync.session import Session

pytestmark = [pytest.mark.full, pytest.mark.timeout(1200)]  # a server may need minutes to start

Make = Callable[..., ServerSender]
TOKENS = [7, 1, 99, 42, 42, 0, 63, 8, 15, 4]
KEY = "the same for all versions"  # so that only a flush keeps old prefixes away


class Model:
    """The trainer's side: named weights in the order of publication, and what they make of ``TOKENS``."""

    def __init__(self, folder: Path) -> None:
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    def weights(self, seed: int) -> dict[str, Tensor]:
        """Those of the folder, each moved by a little; also what ``log_probs`` uses from here on."""
        rng = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self._model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=rng) * 0.1 * parameter.std())
        return {name: tensor.detach().clone() for name, tensor in self._model.named_parameters()}

    def log_probs(self) -> Tensor:
        """[T, V] of what follows each of ``TOKENS``, in fp64."""
        with torch.no_grad():
            logits_TV = self._model.double()(torch.tensor([TOKENS])).logits[0]
        self._model.float()
        return logits_TV.log_softmax(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"), family="qwen2", tie=True)


@pytest.fixture(scope="module")
def real(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[list[Server]]:
    """One running server, in a list so that a test may put another in its place."""
    python = request.config.rootpath / ".venv-sglang" / "bin" / "python"
    if not python.is_file():
        pytest.skip("SGLang is not installed; run `./scripts/setup_sglang`")
    options = ServerOptions(
        python=python,
        model=folder,
        log=tmp_path_factory.mktemp("log") / "server.log",
        dtype="float32",
        device="cpu",
        context_length=200,
        max_running_requests=8,
    )
    servers = [Server(options)]
    servers[0].wait_until_ready()
    yield servers
    servers[0].close()


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return Model(folder)


def assert_uses(control: Control, server: Server, model: Model, version: str) -> None:
    """The server generates, with the model's weights, and says so."""
    expected_TV = model.log_probs()
    answer = control.post(server.url, "/generate", request_of(TOKENS, extra_key=KEY))
    found = read_log_probs(answer, TOKENS, server=server.url)
    expected = expected_TV[:-1].gather(1, torch.tensor(TOKENS[1:])[:, None])[:, 0].tolist()
    require_same_log_probs(found, expected, limit=1e-4, server=server.url)
    token, log_prob = next_token(control, server, KEY)
    assert token == int(expected_TV[-1].argmax())
    assert abs(log_prob - float(expected_TV[-1, token])) < 1e-4
    assert control.model_info(server.url).weight_version == version


def next_token(control: Control, server: Server, key: str) -> tuple[int, float]:
    """The most probable token after ``TOKENS``, with the help of whatever is cached under ``key``."""
    body = {
        "input_ids": TOKENS,
        "sampling_params": {"max_new_tokens": 1, "temperature": 0.0},
        "return_logprob": True,
        "extra_key": key,
    }
    (entry,) = control.post(server.url, "/generate", body)["meta_info"]["output_token_logprobs"]
    return entry[1], entry[0]


def interrupted(weights: dict[str, Tensor], event: Callable[[], object]) -> Iterator[tuple[str, Tensor]]:
    """The weights, with something that happens when half of them were asked for."""
    for number, pair in enumerate(weights.items()):
        if number == len(weights) // 2:
            event()
        yield pair


# ---------------------------------------------------------------- transports


@pytest.mark.parametrize("pause", ["retract", "abort"])
def test_broadcast_weights_are_used_at_once(
    pause: str, real: list[Server], model: Model, make_sender: Make, control: Control
) -> None:
    """The prefix cache holds the same tokens under the old weights; a flush makes it forget."""
    sender = make_sender(bucket_bytes=100_000, only_changed=True, pause=pause)
    weights = model.weights(1)
    report = sender.send(weights.items(), 1, servers=[real[0].url])
    assert report.num_bytes == sum(tensor.nbytes for tensor in weights.values())
    assert_uses(control, real[0], model, "1")
    weights = model.weights(2)
    assert sender.send(weights.items(), 2, servers=[real[0].url]).num_skipped == 0
    assert_uses(control, real[0], model, "2")
    report = sender.send(weights.items(), 3, servers=[real[0].url])
    assert (report.num_bytes, report.num_skipped) == (0, len(weights))
    assert_uses(control, real[0], model, "3")


def test_weights_from_disk_are_used_at_once(
    real: list[Server], model: Model, control: Control, sync_folder: Path
) -> None:
    options = SenderOptions(dtype=torch.float32, device="cpu", bucket_bytes=100_000)
    sender = ServerSender(control, DiskTransport(control, sync_folder), options)
    for version in (4, 5):
        sender.send(model.weights(version).items(), version, servers=[real[0].url])
        assert_uses(control, real[0], model, str(version))


def test_tensors_handed_over_by_reference_are_used_at_once(
    real: list[Server], model: Model, control: Control
) -> None:
    """What CUDA IPC sends, with tensors of shared memory in place of a card's."""
    session = Session(control, [real[0].url])
    strategy = torch.multiprocessing.get_sharing_strategy()
    torch.multiprocessing.set_sharing_strategy("file_system")
    try:
        session.pause("retract")
        session.begin([real[0].url])
        for bucket in Bucketer(100_000)(model.weights(6).items()):
            body = {"serialized_named_tensors": handles(bucket, 1), "flush_cache": False}
            control.post(real[0].url, "/update_weights_from_tensor", body)
        session.end([real[0].url])
        session.name("6")
        session.flush()
        session.resume()
    finally:
        torch.multiprocessing.set_sharing_strategy(strategy)
    assert session.failed == {}
    assert_uses(control, real[0], model, "6")


def test_a_running_response_goes_on_under_the_new_weights(
    real: list[Server], model: Model, make_sender: Make, control: Control
) -> None:
    sender = make_sender(bucket_bytes=100_000)
    sender.send(model.weights(7).items(), 7, servers=[real[0].url])
    body = {"input_ids": TOKENS, "sampling_params": {"max_new_tokens": 180, "ignore_eos": True}}
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(control.post, real[0].url, "/generate", body)
        while not control.get(real[0].url, "/v1/loads")["loads"][0]["num_running_reqs"]:
            assert not answer.done(), "the response was over before the weights came"
        sender.send(model.weights(8).items(), 8, servers=[real[0].url])
        spans = answer.result()["meta_info"]["weight_versions"]
    assert [span["version"] for span in spans] == ["7", "8"]
    assert (spans[0]["start"], spans[-1]["end"]) == (0, 180)


def test_paused_in_place_each_version_needs_a_key_of_its_own(
    real: list[Server], model: Model, make_sender: Make, control: Control
) -> None:
    sender = make_sender(bucket_bytes=100_000, pause="in_place")
    sender.send(model.weights(20).items(), 20, servers=[real[0].url])
    next_token(control, real[0], "20")
    sender.send(model.weights(21).items(), 21, servers=[real[0].url])
    expected_V = model.log_probs()[-1]
    token, log_prob = next_token(control, real[0], "20")
    assert abs(log_prob - float(expected_V[token])) > 1e-3, "the old prefix was forgotten without a flush"
    token, log_prob = next_token(control, real[0], "21")
    assert abs(log_prob - float(expected_V[token])) < 1e-4


# ---------------------------------------------------------------- faults


def test_a_refused_tensor_fails_in_time_and_the_next_publication_works(
    real: list[Server], model: Model, make_sender: Make, control: Control
) -> None:
    sender = make_sender(bucket_bytes=100_000)
    wrong = model.weights(9) | {"model.norm.weight": torch.ones(65)}
    with pytest.raises(EngineError, match=r"no server took .*load weight \(torch\.Size\(\[65\]\)\)"):
        sender.send(wrong.items(), 9, servers=[real[0].url])
    assert control.model_info(real[0].url).weight_version == "incomplete"
    sender.send(model.weights(10).items(), 10, servers=[real[0].url])
    assert_uses(control, real[0], model, "10")


def test_a_trainer_that_went_away_leaves_a_server_that_the_next_one_can_write(
    real: list[Server], model: Model, make_sender: Make, control: Control
) -> None:
    def leave() -> None:
        raise RuntimeError("a rank was lost")

    with pytest.raises(RuntimeError, match="a rank was lost"):
        make_sender(bucket_bytes=100_000).send(
            interrupted(model.weights(11), leave), 11, servers=[real[0].url]
        )
    make_sender(bucket_bytes=100_000).send(model.weights(12).items(), 12, servers=[real[0].url])
    assert_uses(control, real[0], model, "12")


def test_a_server_that_stood_still_is_written_whole_before_it_is_used_again(
    real: list[Server], model: Model, make_sender: Make, control: Control, other: WeightServer
) -> None:
    sender = make_sender(bucket_bytes=100_000, only_changed=True, timeout_s=8.0)
    urls = [real[0].url, other.url]
    sender.send(model.weights(13).items(), 13, servers=urls)
    weights = model.weights(14)
    stop = interrupted(weights, lambda: os.killpg(real[0].pid, signal.SIGSTOP))
    try:
        report = sender.send(stop, 14, servers=urls)
    finally:
        os.killpg(real[0].pid, signal.SIGCONT)
    assert list(report.failed) == [real[0].url]
    assert all(torch.equal(other.weights[name], tensor) for name, tensor in weights.items())
    assert control.model_info(real[0].url).weight_version == "incomplete"

    report = sender.send(weights.items(), 15, servers=urls)
    assert (report.failed, report.num_skipped) == ({}, 0)
    assert_uses(control, real[0], model, "15")


def test_a_server_killed_while_it_is_written_and_restarted_is_written_whole(
    real: list[Server], model: Model, make_sender: Make, control: Control, other: WeightServer
) -> None:
    sender = make_sender(bucket_bytes=100_000, only_changed=True, timeout_s=30.0)
    urls = [real[0].url, other.url]
    sender.send(model.weights(16).items(), 16, servers=urls)
    weights = model.weights(17)
    report = sender.send(interrupted(weights, real[0].close), 17, servers=urls)
    assert list(report.failed) == [real[0].url]
    assert all(torch.equal(other.weights[name], tensor) for name, tensor in weights.items())

    real[0] = real[0].another()
    real[0].wait_until_ready()
    report = sender.send(weights.items(), 18, servers=[real[0].url, other.url])
    assert (report.failed, report.num_skipped) == ({}, 0)
    assert_uses(control, real[0], model, "18")


@pytest.fixture
def other(model: Model) -> Iterator[WeightServer]:
    """A second server, which goes on."""
    server = WeightServer({name: tuple(tensor.shape) for name, tensor in model.weights(0).items()})
    yield server
    server.close()
