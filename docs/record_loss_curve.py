"""Record held-out loss by update of a tiny byte-level transformer on CPU, as CSV.

The packaged curves of `predictors.loss_curve` were fitted to what this wrote with three seeds and
learning rates 5e-5 and 1e-3. It needs torch (``pip install 'lemix-opt[record]'``) and takes about
half a minute per seed:

    python docs/record_loss_curve.py 1e-3 3 recorded.csv

The text are the library modules of the running interpreter, every tenth of them held out.
"""

from __future__ import annotations

import csv
import sys
import sysconfig
from pathlib import Path

import torch
from torch import Tensor, nn

UPDATES = 100
WIDTH, LAYERS, HEADS, LENGTH = 128, 2, 4, 128
ROWS, HELD_OUT_ROWS = 16, 64


class TinyModel(nn.Module):
    """A decoder-only transformer over bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes, self.places = nn.Embedding(256, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                WIDTH, HEADS, 4 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(LAYERS)
        )
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 256)
        for part in (self.bytes, self.places, self.head):
            nn.init.normal_(part.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, text: Tensor) -> Tensor:
        """Return logits of the next byte, shape (rows, length, 256)."""
        hidden = self.bytes(text) + self.places.weight[: text.shape[1]]
        mask = nn.Transformer.generate_square_subsequent_mask(text.shape[1])
        for layer in self.layers:
            hidden = layer(hidden, src_mask=mask, is_causal=True)
        return self.head(self.norm(hidden))


def loss_of(model: TinyModel, rows: Tensor) -> Tensor:
    """Mean cross-entropy of the next byte, in nats."""
    logits = model(rows[:, :-1]).flatten(0, 1)
    return nn.functional.cross_entropy(logits, rows[:, 1:].flatten())


def windows(text: Tensor, rows: int, generator: torch.Generator) -> Tensor:
    """Draw stretches of text, shape (rows, LENGTH + 1)."""
    starts = torch.randint(len(text) - LENGTH - 1, (rows,), generator=generator)
    return torch.stack([text[start : start + LENGTH + 1] for start in starts])


def record(rate: float, seed: int, train: Tensor, held_out: Tensor) -> list[float]:
    """Train with AdamW at a rate that falls linearly to 0; return the losses before and after."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = TinyModel()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: 1 - done / UPDATES)
    fixed = windows(held_out, HELD_OUT_ROWS, torch.Generator().manual_seed(0))
    losses = []
    for update in range(UPDATES + 1):
        with torch.no_grad():
            losses.append(float(loss_of(model, fixed)))
        if update < UPDATES:
            optimizer.zero_grad()
            loss_of(model, windows(train, ROWS, generator)).backward()
            optimizer.step()
            falling.step()
    return losses


def main(rate: str, seeds: str, path: str) -> None:
    """Record all seeds and write one row per update."""
    torch.set_num_threads(1)
    modules = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    held_out, train = (
        torch.tensor(bytearray(b"".join(m.read_bytes() for m in part)), dtype=torch.long)
        for part in (modules[::10], [m for at, m in enumerate(modules) if at % 10])
    )
    with Path(path).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["run", "updates", "loss"])
        for seed in range(int(seeds)):
            losses = record(float(rate), seed, train, held_out)
            writer.writerows([seed, done, loss] for done, loss in enumerate(losses))


if __name__ == "__main__":
    main(*sys.argv[1:])
