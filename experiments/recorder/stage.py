"""Transformer stages in PyTorch, with a real backward and a real optimizer step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from experiments.recorder.devices import Device


@dataclass(frozen=True)
class Shape:
    """Size of the model; a stage has an equal part of the layers.

    Parameters
    ----------
    hidden, heads, layers, vocabulary, longest : int
        Width, attention heads, layers of the whole model, tokens known, longest sequence.
    """

    hidden: int
    heads: int
    layers: int
    vocabulary: int
    longest: int


class _Block(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.before = nn.LayerNorm(shape.hidden)
        self.mixed = nn.Linear(shape.hidden, 3 * shape.hidden)
        self.out = nn.Linear(shape.hidden, shape.hidden)
        self.after = nn.LayerNorm(shape.hidden)
        self.wide = nn.Linear(shape.hidden, 4 * shape.hidden)
        self.narrow = nn.Linear(4 * shape.hidden, shape.hidden)

    def forward(self, x: Tensor) -> Tensor:
        rows, tokens, hidden = x.shape
        parts = self.mixed(self.before(x)).view(rows, tokens, 3, self.heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        seen = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).reshape(rows, tokens, hidden))
        return x + self.narrow(nn.functional.gelu(self.wide(self.after(x))))


class _Part(nn.Module):
    def __init__(self, shape: Shape, layers: int, first: bool, last: bool) -> None:
        super().__init__()
        self.word = nn.Embedding(shape.vocabulary, shape.hidden) if first else None
        self.place = nn.Embedding(shape.longest, shape.hidden) if first else None
        self.blocks = nn.ModuleList(_Block(shape) for _ in range(layers))
        self.head = nn.Linear(shape.hidden, shape.vocabulary) if last else None

    def forward(self, x: Tensor) -> Tensor:
        if self.word is not None and self.place is not None:
            x = self.word(x) + self.place(torch.arange(x.shape[1], device=x.device))
        for block in self.blocks:
            x = block(x)
        return x


class TorchStage:
    """One stage of a replica on its device.

    Training tasks may be under way on a stage while an earlier one updates its weights, as in any
    asynchronous pipeline without copies of old weights: a backward then sees newer weights than
    its forward did. The optimizer therefore works on tensors that share the weights' storage.

    Parameters
    ----------
    shape : Shape
        Size of the whole model.
    stage, stages : int
        Which part of the layers this is.
    rows : mapping of int to Tensor
        Tokens of every task, shape (batch, tokens + 1), on the host.
    training : sequence of bool
        Which tasks train.
    device : Device
        Where the stage runs.
    seed : int
        Seed of the weights.
    """

    def __init__(
        self,
        shape: Shape,
        stage: int,
        stages: int,
        rows: Mapping[int, Tensor],
        training: list[bool],
        device: Device,
        seed: int,
    ) -> None:
        self.device, self.rows, self.training = device, rows, training
        self.first, self.last = stage == 0, stage == stages - 1
        layers = shape.layers // stages + (stage < shape.layers % stages)
        torch.manual_seed(seed)
        self.part = _Part(shape, layers, self.first, self.last).to(device.name)
        self.shadows = [nn.Parameter(p.data) for p in self.part.parameters()]
        self.optimizer = torch.optim.AdamW(self.shadows, lr=1e-4)
        self.open: dict[int, tuple[Tensor | None, Tensor]] = {}

    def enter(self) -> None:
        """Prepare the thread."""
        self.device.enter()

    def timed(self, work: Callable[[], Any]) -> tuple[Any, int, int]:
        """Do work, wait for it; return its result, start and end."""
        with self.device.scope():
            return self.device.timed(work)

    def measured(self, work: Callable[[], Any]) -> tuple[Any, int, int]:
        """Do work, wait for it; return its result, its peak of bytes and what it kept."""
        with self.device.scope():
            return self.device.measured(work)

    def forward(self, task: int, given: Any) -> Any:
        """Run a forward; on the last stage of a training task with its loss."""
        x = self.rows[task][:, :-1] if self.first else given
        x = x.to(self.device.name)
        if not self.training[task]:
            with torch.inference_mode():
                y = self.part(x)
                return self.part.head(y[:, -1]).argmax(-1) if self.part.head is not None else y
        if not self.first:
            x = x.detach().requires_grad_()
        y = self.part(x)
        if self.part.head is not None:
            wanted = self.rows[task][:, 1:].to(self.device.name)
            y = nn.functional.cross_entropy(self.part.head(y).flatten(0, 1), wanted.flatten())
        self.open[task] = (None if self.first else x, y)
        return y.detach()

    def backward(self, task: int, given: Any) -> Any:
        """Run a backward; the weights' gradients stay for the update."""
        x, y = self.open.pop(task)
        torch.autograd.backward(y, None if given is None else given.to(self.device.name))
        return None if x is None else x.grad

    def update(self) -> None:
        """Step the optimizer and drop the gradients."""
        for shadow, weight in zip(self.shadows, self.part.parameters(), strict=True):
            shadow.grad, weight.grad = weight.grad, None
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def resident_bytes(self) -> int:
        """Bytes of weights and of the optimizer's states."""
        states = [
            value
            for state in self.optimizer.state.values()
            for value in state.values()
            if isinstance(value, Tensor)
        ]
        return sum(t.numel() * t.element_size() for t in [*self.part.parameters(), *states])


def draw_rows(tokens: list[int], batch: int, vocabulary: int, seed: int) -> dict[int, Tensor]:
    """Draw the tokens of every task, shape (batch, tokens + 1), from a seed."""
    generator = torch.Generator().manual_seed(seed)
    return {
        task: torch.randint(vocabulary, (batch, length + 1), generator=generator)
        for task, length in enumerate(tokens)
    }
