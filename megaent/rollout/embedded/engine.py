"""The embedded engine: a whole Hugging Face model in this process, unsharded, decoded by our own loop.

Independent of tensor and pipeline parallelism: each data-parallel leader holds one, and its weights
arrive under their Hugging Face names like those of any other engine.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from megaent.errors import EngineError, ModelError
from megaent.model_folder.architecture import Architecture, read_architecture
from megaent.model_folder.contents import check_weights
from megaent.rollout.embedded.decode import Continuation, Row, decode
from megaent.rollout.embedded.named import file_weights
from megaent.rollout.embedded.transformer import Transformer
from megaent.rollout.sampling import require_prompts, require_sampling
from megaent.types import Group, Metrics, Response, RolloutRequest, SamplingParams


class EmbeddedEngine:
    """Samples with a model of a supported family, read from a folder.

    ``batch_size`` responses are decoded together. Which ones are has no influence on a draw, but another
    batch shape lets the matrix products round differently, so log-probabilities of two batch sizes agree
    to rounding and those of equal calls to the bit.

    With ``load_weights=False`` only the architecture is read; the engine refuses to generate until a full
    set of weights came through ``receive_weights``.
    """

    takes_weights_while_generating = False

    def __init__(
        self,
        model_path: str | Path,
        *,
        dtype: torch.dtype,
        device: str | torch.device = "cpu",
        batch_size: int = 128,
        load_weights: bool = True,
    ) -> None:
        folder = Path(model_path)
        architecture = read_architecture(folder)
        if load_weights:
            check_weights(folder, architecture)
        config = _read_config(folder, architecture)
        model = _load(folder, dtype) if load_weights else _build(config, dtype)
        # transformers decorates ``to`` in a way that hides its signature from type checkers.
        model = model.to(device)  # type: ignore[arg-type]
        self._model: PreTrainedModel | None = model.eval().requires_grad_(False)
        self._architecture = architecture
        self._vocab_size = architecture.vocab_size
        self._context_length = architecture.max_positions
        self._batch_size = batch_size
        self._no_weights = "" if load_weights else "it has not received any yet"
        self.version = 0 if load_weights else -1

    # ------------------------------------------------------------ generate

    def generate(self, requests: Sequence[RolloutRequest], sampling: SamplingParams) -> list[Group]:
        """One ungraded group per request, in the order of the requests, responses in the order of seeds."""
        model = Transformer(self._ready_model(), self._architecture)
        require_sampling(sampling, vocab_size=self._vocab_size)
        require_prompts(
            requests,
            max_new_tokens=sampling.max_new_tokens,
            vocab_size=self._vocab_size,
            context_length=self._context_length,
        )
        rows = [Row(request.prompt, seed) for request in requests for seed in request.seeds]
        # Prompts of one length side by side need little padding. sorted() is stable, so that responses to
        # one prompt stay together and share its prefill.
        order = sorted(range(len(rows)), key=lambda index: len(rows[index].prompt.tokens))
        drawn: dict[int, Continuation] = {}
        for start in range(0, len(order), self._batch_size):
            chunk = order[start : start + self._batch_size]
            found = decode(model, [rows[index] for index in chunk], sampling)
            drawn |= zip(chunk, found, strict=True)
        responses = (self._response(drawn[index]) for index in range(len(rows)))
        return [
            Group(
                index=request.index,
                prompt=request.prompt,
                responses=tuple(islice(responses, len(request.seeds))),
            )
            for request in requests
        ]

    def _response(self, drawn: Continuation) -> Response:
        return Response(
            tokens=drawn.tokens,
            log_prob=drawn.log_prob,
            finish=drawn.finish,
            version=self.version,
            top_tokens=drawn.top_tokens,
            top_log_prob=drawn.top_log_prob,
        )

    # ------------------------------------------------------------ weights

    def receive_weights(self, named_tensors: Iterable[tuple[str, Tensor]], version: int) -> Metrics:
        """Replace every weight by the Hugging Face-named tensors streamed in, cast to the engine's dtype.

        They are copied in place as they come, since a second copy may not fit. When one is missing,
        unknown, repeated or of another shape, or when the stream itself fails, the old weights are partly
        gone: ``version`` becomes -1 and ``generate`` raises until a full set arrives.

        The stream is read to its end even after a refusal, because other ranks may have a part in
        producing it and would wait for this one.
        """
        model = self._open_model()
        self.version, self._no_weights = -1, "the last set did not arrive completely"
        wrong = _copy_weights(dict(file_weights(model, self._architecture)), named_tensors)
        if wrong:
            self._no_weights = f"the last set was refused ({wrong})"
            raise EngineError(
                f"weights of version {version} were refused: {wrong}; the engine has no weights until a "
                "full set arrives"
            )
        self.version, self._no_weights = version, ""
        return {}

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight in use under its Hugging Face name; a tied output layer appears once, as embedding."""
        yield from file_weights(self._ready_model(), self._architecture)

    def rest(self) -> None:
        """Its caches live no longer than a call of ``generate``."""

    def close(self) -> None:
        self._model = None

    def _open_model(self) -> PreTrainedModel:
        if self._model is None:
            raise EngineError("the embedded engine is closed; build another one")
        return self._model

    def _ready_model(self) -> PreTrainedModel:
        model = self._open_model()
        if self._no_weights:
            raise EngineError(f"the embedded engine has no weights: {self._no_weights}; publish a full set")
        return model


@torch.no_grad()
def _copy_weights(targets: dict[str, Tensor], named_tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Copy what fits; the first thing that is wrong, or "" when every target was filled once."""
    wrong = ""
    missing = set(targets)
    for name, tensor in named_tensors:
        if name not in targets:
            wrong = wrong or f"{name} is unknown to this model (a tied output layer is not sent)"
        elif name not in missing:
            wrong = wrong or f"{name} came twice"
        elif tensor.shape != targets[name].shape:
            expected, got = list(targets[name].shape), list(tensor.shape)
            wrong = wrong or f"{name} must have shape {expected}, got {got}"
        else:
            missing.remove(name)
            targets[name].copy_(tensor)
    first = next((name for name in targets if name in missing), "")
    return wrong or (f"{first} is missing, {len(missing)} of {len(targets)} in all" if first else "")


# ---------------------------------------------------------------- the model folder


def _read_config(folder: Path, architecture: Architecture) -> PreTrainedConfig:
    """transformers' own reading of a folder that ours has accepted."""
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, TypeError, KeyError) as error:
        cause = " ".join(str(error).split())
        raise ModelError(f"{folder}/config.json cannot be read: {cause}; copy the folder again") from error
    if (config.vocab_size, config.num_hidden_layers) != (architecture.vocab_size, architecture.num_layers):
        raise ModelError(f"{folder}/config.json is read in two ways; write its sizes at its top level")
    return config


# torch's grouped products, which transformers takes for experts otherwise, know no fp64.
_IMPLEMENTATIONS = {"attn_implementation": "sdpa", "experts_implementation": "eager"}


def _load(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    try:
        model, info = AutoModelForCausalLM.from_pretrained(  # type: ignore[misc]
            folder,
            dtype=dtype,
            **_IMPLEMENTATIONS,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"the weights in {folder} cannot be read: {error}; copy the model again") from error
    # transformers fills what is missing with random numbers and only logs it.
    for trouble in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        if info[trouble]:
            first = sorted(map(str, info[trouble]))[0]
            raise ModelError(f"the weights in {folder} do not fit its config.json: {trouble} {first}")
    # Out of the mapped file, where a tensor may begin at any byte: how matrix products round can depend on
    # that, and published weights are to give the bits of loaded ones.
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model


def _build(config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """The architecture with weights that nobody will use; torch's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        return AutoModelForCausalLM.from_config(config, dtype=dtype, **_IMPLEMENTATIONS)
