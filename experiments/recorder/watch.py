"""Bytes that operators of PyTorch hold on a processor, which has no counter of its own."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class MemoryWatch(TorchDispatchMode):
    """Follows every storage from the operator that makes it to the moment it is freed.

    Scratch memory inside an operator is not seen.

    Attributes
    ----------
    now, peak : int
        Bytes held by storages made under the watch, and the most there were at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator and take note of the storages that it made."""
        made = func(*args, **(kwargs or {}))
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if _is_tensor(t)}
        for leaf in filter(_is_tensor, tree_leaves(made)):
            storage = leaf.untyped_storage()
            place, size = storage._cdata, storage.nbytes()
            # Views and results in place live in storages that were there.
            if place not in self._alive and place not in given:
                self._alive.add(place)
                self.now += size
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._freed, place, size)
        return made

    def _freed(self, place: int, size: int) -> None:
        self._alive.discard(place)
        self.now -= size


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)
