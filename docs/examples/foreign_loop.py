"""megaent.ops in a training loop of one's own: log-probability and entropy without the logits in memory.

Run it with ``python docs/examples/foreign_loop.py``; it needs torch and megaent alone.
"""

import torch

from megaent.ops import linear_logprob_entropy

VOCAB, WIDTH, NUM_STEPS, ENTROPY_BONUS = 1000, 64, 40, 1e-3


def train() -> list[float]:
    """Losses in nats a token; the model learns which token follows which."""
    torch.manual_seed(0)
    body = torch.nn.Sequential(
        torch.nn.Embedding(VOCAB, WIDTH), torch.nn.Linear(WIDTH, WIDTH), torch.nn.Tanh()
    )
    head = torch.nn.Linear(WIDTH, VOCAB, bias=False)
    optimizer = torch.optim.AdamW([*body.parameters(), *head.parameters()], lr=1e-2)
    token = torch.randint(VOCAB, (256,))
    target = (7 * token + 3) % VOCAB
    losses = []
    for step in range(NUM_STEPS):
        found = linear_logprob_entropy(body(token), head.weight, target, workspace_bytes=2**19)
        loss = -(found.log_prob + ENTROPY_BONUS * found.entropy).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if step % 10 == 9:
            print(f"step {step + 1}: loss {losses[-1]:.3f}, entropy {found.entropy.mean().item():.3f} nats")
    return losses


if __name__ == "__main__":
    train()
