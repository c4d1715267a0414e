"""A loop in the manner of nanoGPT: steps instead of epochs, an evaluation every so many.

A small GPT learns to continue the characters of this file.
Lines that end in `# +` are all that measuring adds.

python examples/popular/nanogpt_loop.py [--max-iters 200] [--out out-nanogpt]
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from energyest import track  # +

BLOCK, BATCH, MICRO_STEPS = 32, 4, 2
EVAL_INTERVAL, EVAL_ITERS, WARMUP_ITERS = 20, 4, 10
LEARNING_RATE, MIN_LEARNING_RATE = 3e-3, 3e-4


class GPT(nn.Module):
    """A decoder of two blocks."""

    def __init__(self, vocabulary: int, width: int = 32, heads: int = 2, blocks: int = 2) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(BLOCK, width)
        block = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, blocks, enable_nested_tensor=False)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, text: Tensor, targets: Tensor) -> Tensor:
        """The loss of each next character; both of shape (batch, BLOCK)."""
        x = self.tokens(text) + self.positions(torch.arange(BLOCK, device=text.device))
        mask = nn.Transformer.generate_square_subsequent_mask(BLOCK, device=text.device)
        logits = self.head(self.blocks(x, mask=mask, is_causal=True))
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def get_batch(text: Tensor) -> tuple[Tensor, Tensor]:
    """Random pieces of a text, and the same one character later."""
    starts = torch.randint(len(text) - BLOCK, (BATCH,)).tolist()
    pieces = [torch.stack([text[i + s : i + s + BLOCK] for i in starts]) for s in (0, 1)]
    return pieces[0], pieces[1]


def learning_rate(iteration: int, max_iters: int) -> float:
    """Linear warm-up, then a cosine."""
    if iteration < WARMUP_ITERS:
        return LEARNING_RATE * (iteration + 1) / WARMUP_ITERS
    share = (iteration - WARMUP_ITERS) / max(1, max_iters - WARMUP_ITERS)
    half_wave = 0.5 * (1 + math.cos(math.pi * share))
    return MIN_LEARNING_RATE + half_wave * (LEARNING_RATE - MIN_LEARNING_RATE)


@torch.no_grad()
def estimate_loss(model: GPT, texts: dict[str, Tensor]) -> dict[str, float]:
    """The mean loss on a few batches of each text."""
    model.eval()
    found = {
        name: torch.stack([model(*get_batch(text)) for _ in range(EVAL_ITERS)]).mean().item()
        for name, text in texts.items()
    }
    model.train()
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, with an evaluation and a checkpoint every so many steps."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--max-iters", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("out-nanogpt"))
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)

    torch.manual_seed(1337)
    characters = Path(__file__).read_text(encoding="utf-8")
    vocabulary = sorted(set(characters))
    text = torch.tensor([vocabulary.index(character) for character in characters])
    texts = {"train": text[: len(text) * 9 // 10], "val": text[len(text) * 9 // 10 :]}
    model = GPT(len(vocabulary))
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99))

    with track(options.out / "energy") as run:  # +
        for iteration in run.steps(options.max_iters, every_n_steps=EVAL_INTERVAL):  # +
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(iteration, options.max_iters)
            for _ in range(MICRO_STEPS):
                loss = model(*get_batch(texts["train"])) / MICRO_STEPS
                loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if (iteration + 1) % EVAL_INTERVAL == 0 or iteration + 1 == options.max_iters:
                with run.validation():  # +
                    losses = estimate_loss(model, texts)
                run.log(val_loss=losses["val"])  # +
                print(f"step {iteration + 1}: train {losses['train']:.3f}, val {losses['val']:.3f}")
                torch.save({"model": model.state_dict()}, options.out / "ckpt.pt")


if __name__ == "__main__":
    main()
