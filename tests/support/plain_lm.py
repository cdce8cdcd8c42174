"""An independent decoder and an independent GRPO step in plain torch, to compare the actor with.

Written from the papers, sharing no code with megaent: one sequence at a time, dense softmax, one
process. ``dtype`` is that of the weights; nothing is computed in another type but the rotary angles.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file
from torch import Tensor


@dataclass
class PlainResponse:
    prompt: list[int]
    tokens: list[int]
    reward: float
    group: int


@dataclass
class PlainModel:
    config: dict
    weights: dict[str, Tensor]

    @classmethod
    def load(cls, folder: Path, dtype: torch.dtype) -> PlainModel:
        config = json.loads((folder / "config.json").read_text())
        weights = {
            name: value.to(dtype).requires_grad_()
            for name, value in load_file(folder / "model.safetensors").items()
        }
        return cls(config, weights)

    def log_prob_entropy(self, response: PlainResponse, temperature: float) -> tuple[Tensor, Tensor]:
        """Of every response token, [L] each."""
        whole = torch.tensor(response.prompt + response.tokens)
        logits = self.logits(whole[:-1])[len(response.prompt) - 1 :] / temperature
        log_p = torch.log_softmax(logits, dim=-1)
        chosen = log_p.gather(1, whole[len(response.prompt) :, None])[:, 0]
        return chosen, -(log_p.exp() * log_p).sum(-1)

    def logits(self, tokens: Tensor) -> Tensor:
        w, c = self.weights, self.config
        x = w["model.embed_tokens.weight"][tokens]
        for i in range(c["num_hidden_layers"]):
            p = f"model.layers.{i}."
            x = x + self._attention(p + "self_attn.", self._norm(x, p + "input_layernorm.weight"))
            h = self._norm(x, p + "post_attention_layernorm.weight")
            x = x + self._feed_forward(p, h)
        head = w.get("lm_head.weight", w["model.embed_tokens.weight"])
        return self._norm(x, "model.norm.weight") @ head.T

    def _feed_forward(self, layer: str, h: Tensor) -> Tensor:
        kind = self.config["model_type"]
        if kind == "mixtral":
            return self._mixture(layer + "block_sparse_moe.", h, ("w1", "w3", "w2"), is_normalised=True)
        names = ("gate_proj", "up_proj", "down_proj")
        if kind == "qwen3_moe":
            return self._mixture(layer + "mlp.", h, names, is_normalised=self.config["norm_topk_prob"])
        return self._gated(layer + "mlp.", h, names)

    def _mixture(self, block: str, h: Tensor, names: tuple[str, str, str], *, is_normalised: bool) -> Tensor:
        """Every expert on every token, times its share where it is chosen and 0 elsewhere."""
        share = self._scores(block + "gate.weight", h).softmax(-1)
        least = share.topk(self.config["num_experts_per_tok"]).values[:, -1:]
        share = torch.where(share >= least, share, 0.0)
        if is_normalised:
            share = share / share.sum(-1, keepdim=True)
        outs = [
            self._gated(f"{block}experts.{expert}.", h, names) * share[:, expert, None]
            for expert in range(share.shape[1])
        ]
        return torch.stack(outs).sum(0)

    def _scores(self, router: str, h: Tensor) -> Tensor:
        """[positions, experts] of one layer."""
        return h @ self.weights[router].T

    def _gated(self, prefix: str, h: Tensor, names: tuple[str, str, str]) -> Tensor:
        gate, up, down = (prefix + name for name in names)
        gated = self._linear(gate, h)
        return self._linear(down, gated * torch.sigmoid(gated) * self._linear(up, h))

    def _norm(self, x: Tensor, name: str) -> Tensor:
        scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + self.config["rms_norm_eps"])
        return x * scale * self.weights[name]

    def _attention(self, prefix: str, x: Tensor) -> Tensor:
        heads, kv_heads = self.config["num_attention_heads"], self.config["num_key_value_heads"]
        width = self.config.get("head_dim") or self.config["hidden_size"] // heads
        q = self._rotate(self._project(prefix + "q_proj", x, heads, width, prefix + "q_norm.weight"))
        k = self._rotate(self._project(prefix + "k_proj", x, kv_heads, width, prefix + "k_norm.weight"))
        v = self._project(prefix + "v_proj", x, kv_heads, width, None)
        k, v = (t.repeat_interleave(heads // kv_heads, dim=1) for t in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q, k) / width**0.5
        future = torch.ones(len(x), len(x), dtype=torch.bool).triu(1)
        weights = scores.masked_fill(future, -torch.inf).softmax(-1)
        out = torch.einsum("hqk,khd->qhd", weights, v).reshape(len(x), -1)
        return self._linear(prefix + "o_proj", out)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.weights[name + ".weight"].T

    def _project(self, name: str, x: Tensor, heads: int, width: int, norm: str | None) -> Tensor:
        out = self._linear(name, x)
        if name + ".bias" in self.weights:
            out = out + self.weights[name + ".bias"]
        out = out.view(len(x), heads, width)
        return self._norm(out, norm) if norm in self.weights else out

    def _rotate(self, x: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        base = self.config["rope_parameters"]["rope_theta"]
        # Positions times frequencies are fp32 in every implementation; the angle is part of the model.
        frequency = 1.0 / base ** (torch.arange(0, 2 * half, 2, dtype=torch.float32) / (2 * half))
        angle = torch.arange(len(x), dtype=torch.float32)[:, None] * frequency[None]
        cos, sin = angle.cos().to(x.dtype)[:, None], angle.sin().to(x.dtype)[:, None]
        first, second = x[..., :half], x[..., half:]
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class PlainExtra(Protocol):
    """A loss beside the policy's."""

    def begin(self, model: Any, responses: list[PlainResponse]) -> None:
        """With the old policy and the whole step, without gradients."""
        ...

    def loss(self, model: Any, responses: list[PlainResponse]) -> Tensor:
        """Of one minibatch."""
        ...


@dataclass
class PlainResult:
    log_prob: list[Tensor] = field(default_factory=list)  # per step, of the old policy, all responses joined
    entropy: list[Tensor] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)  # per step, summed over its minibatches
    norm: list[float] = field(default_factory=list)  # per step, largest over its minibatches
    gradients: dict[str, Tensor] = field(default_factory=dict)  # of the last minibatch, before clipping
    weights: dict[str, Tensor] = field(default_factory=dict)


def plain_grpo(
    model: PlainModel,
    responses: list[PlainResponse],
    *,
    steps: int,
    minibatches: int,
    temperature: float,
    lr: float,
    eps: float,
    clip_grad: float,
    extra: PlainExtra | None = None,
) -> PlainResult:
    """``steps`` GRPO steps on the same responses: groups in order, token mean, clip 0.2, dual clip 3.

    The gradients of ``extra`` are added; the loss that is reported is the policy's.
    """
    result = PlainResult()
    optimizer = torch.optim.AdamW(
        model.weights.values(), lr=lr, betas=(0.9, 0.999), eps=eps, weight_decay=0.0
    )
    advantages = _advantages(responses)
    groups = sorted({response.group for response in responses})
    for _ in range(steps):
        with torch.no_grad():
            old = [model.log_prob_entropy(response, temperature) for response in responses]
            if extra is not None:
                extra.begin(model, responses)
        result.log_prob.append(torch.cat([log_prob for log_prob, _ in old]))
        result.entropy.append(torch.cat([entropy for _, entropy in old]))
        loss_sum, norms = 0.0, []
        for minibatch in range(minibatches):
            chosen = [
                i
                for i, r in enumerate(responses)
                if groups.index(r.group) * minibatches // len(groups) == minibatch
            ]
            tokens = sum(len(responses[i].tokens) for i in chosen)
            optimizer.zero_grad()
            total = torch.zeros((), dtype=old[0][0].dtype)
            for i in chosen:
                ratio = (model.log_prob_entropy(responses[i], temperature)[0] - old[i][0]).exp()
                total = total + _surrogate(ratio, advantages[i]).sum() / tokens
            beside = 0.0 if extra is None else extra.loss(model, [responses[i] for i in chosen])
            (total + beside).backward()
            result.gradients = {n: w.grad.clone() for n, w in model.weights.items() if w.grad is not None}
            norm = torch.sqrt(sum(g.double().square().sum() for g in result.gradients.values()))
            if clip_grad:
                torch.nn.utils.clip_grad_norm_(model.weights.values(), clip_grad)
            optimizer.step()
            loss_sum += float(total)
            norms.append(float(norm))
        result.loss.append(loss_sum)
        result.norm.append(max(norms))
    result.weights = {name: weight.detach().clone() for name, weight in model.weights.items()}
    return result


def _advantages(responses: list[PlainResponse]) -> list[float]:
    by_group: dict[int, list[float]] = {}
    for response in responses:
        by_group.setdefault(response.group, []).append(response.reward)
    out = []
    for response in responses:
        rewards = torch.tensor(by_group[response.group], dtype=torch.float64)
        out.append(float((response.reward - rewards.mean()) / (rewards.std() + 1e-6)))
    return out


def _surrogate(ratio: Tensor, advantage: float) -> Tensor:
    loss = torch.maximum(-advantage * ratio, -advantage * ratio.clamp(0.8, 1.2))
    return torch.minimum(loss, torch.tensor(-advantage * 3.0, dtype=ratio.dtype)) if advantage < 0 else loss
