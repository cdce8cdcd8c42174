"""A bigram policy in plain torch: the actor of the fast tests, where the loop runs without Megatron."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from megaent.errors import CheckpointError
from megaent.experience.work import Work
from megaent.objective.method import Loss
from megaent.ops import logprob_entropy
from megaent.types import Alone, Experience, Metrics, PolicyView, TokenTerms

_FILE = "bigram.safetensors"
_NO_REFERENCE = "TinyActor keeps no reference policy; use a method without a KL term"


class TinyActor:
    """The next token depends on the token before it: one row of logits for each, trained by Adam."""

    work = Work(per_token=1, per_prediction=0, per_pair=0)

    def __init__(self, vocab_size: int, *, lr: float, seed: int = 0) -> None:
        self.vocab_size = vocab_size
        self.layout = Alone()
        noise = torch.Generator().manual_seed(seed)
        self.logits_VV = (0.1 * torch.randn(vocab_size, vocab_size, generator=noise)).requires_grad_()
        self.optimizer_steps = 0
        self.reference_digest: str | None = None
        self.optimizer = torch.optim.Adam([self.logits_VV], lr=lr)

    def score(
        self,
        batch: Experience,
        *,
        temperature: float,
        with_reference: bool = False,
        check: Tensor | None = None,
        nucleus_p: float | None = None,
    ) -> Experience:
        if with_reference:
            raise ValueError(_NO_REFERENCE)
        del check  # there is no kernel here to be checked
        with torch.no_grad():
            stats = self._statistics(batch, temperature, nucleus_p)
        found = {"log_prob_old": stats.log_prob, "entropy": stats.entropy}
        return replace(batch, nucleus_entropy=stats.nucleus_entropy, **found)

    def drift(self, batch: Experience, *, temperature: float) -> Metrics:
        del batch, temperature
        return {}  # there is one precision here

    def update(
        self,
        batch: Experience,
        terms: TokenTerms,
        loss: Loss,
        *,
        temperature: float,
        num_minibatches: int,
    ) -> Metrics:
        assert batch.log_prob_old is not None, "update needs a scored batch"
        total, norms = 0.0, [0.0]
        for number in range(num_minibatches):
            total += self._backward(batch, terms, loss, temperature, number)
            norms.append(self._norm())
            self.optimizer.step()
            self.optimizer_steps += 1
        return {"loss": total, "grad/norm": max(norms)}

    def gradient_norm(self, batch: Experience, terms: TokenTerms, loss: Loss, *, temperature: float) -> float:
        self._backward(batch, terms, loss, temperature, 0)
        return self._norm()

    def _backward(
        self, batch: Experience, terms: TokenTerms, loss: Loss, temperature: float, number: int
    ) -> float:
        """The gradient of one minibatch and nothing else; returns its loss."""
        stats = self._statistics(batch, temperature, loss.nucleus_p)
        view = PolicyView(
            log_prob=stats.log_prob,
            entropy=stats.entropy,
            nucleus_entropy=stats.nucleus_entropy,
            old=batch.old,
            terms=terms,
            num_responses=batch.num_responses,
            population=Alone(),
        )
        loss_T, _ = loss(view)
        total = (terms.weight * loss_T)[terms.minibatch == number].sum()
        self.optimizer.zero_grad()
        total.backward()
        return float(total.detach())

    def _norm(self) -> float:
        return float(torch.linalg.vector_norm(self.logits_VV.grad))  # type: ignore[arg-type]

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        yield "bigram.weight", self.logits_VV.detach()

    # ------------------------------------------------------------ kept

    @property
    def identity(self) -> dict[str, object]:
        return {"tokens": self.vocab_size}

    def save(self, folder: Path) -> None:
        moments = self.optimizer.state.get(self.logits_VV, {})
        save_file({"logits": self.logits_VV.detach(), **moments}, folder / _FILE)

    def load(self, folder: Path) -> None:
        try:
            found = load_file(folder / _FILE)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{folder / _FILE} cannot be read: {error}") from error
        with torch.no_grad():
            self.logits_VV.copy_(found.pop("logits"))
        if found:
            self.optimizer.state[self.logits_VV] = found

    def reset_optimizer(self) -> None:
        self.optimizer.state.clear()
        self.optimizer_steps = 0

    def keep_reference(self, folder: Path | None = None) -> None:
        raise ValueError(_NO_REFERENCE)

    def load_folder(self, folder: Path) -> None:
        raise ValueError(_NO_REFERENCE)

    def _statistics(self, batch: Experience, temperature: float, nucleus_p: float | None):
        before_T = torch.cat([batch.token.new_zeros(1), batch.token[:-1]])
        last_S = torch.tensor(
            [batch.prompts[group].tokens[-1] for group in batch.group.tolist()], dtype=torch.int64
        )
        before_T = torch.where(batch.position == 0, last_S[batch.owner], before_T)
        logits_TV = self.logits_VV[before_T]
        return logprob_entropy(logits_TV, batch.token, temperature=temperature, nucleus_p=nucleus_p)
