"""Two operations on one GPU: a forward in the first lane, a backward or update in the second.

The GPU `g` of `G` has the slots `g` and `g + G` in the tree of ends.
"""

from __future__ import annotations

from math import inf

from lemix_opt.engine.books import Books, Rules
from lemix_opt.engine.jit import inlined
from lemix_opt.engine.queues import ITEM_SHIFT, PHASE_SHIFT, set_end
from lemix_opt.engine.steps import row_of
from lemix_opt.engine.view import View


@inlined
def rescale(view: View, books: Books, rules: Rules, slot: int, factor: float, now_s: float) -> None:
    """Multiply what is left of a running operation by a factor."""
    if factor == 1.0:
        return
    key = books.gpu_key[slot]
    item = (key >> ITEM_SHIFT) & 0xFFFFFFFF
    end_s = now_s + (books.gpu_end_s[slot] - now_s) * factor
    row = row_of(books, rules, view, item, (key >> PHASE_SHIFT) & 7, key & 0x3FFF)
    books.end_s[row] = end_s
    set_end(books, slot, end_s, key)


@inlined
def slow_down(view: View, books: Books, rules: Rules, slot: int, now_s: float) -> None:
    """Stretch an operation that begins, and the one that its GPU runs beside it."""
    gpus = rules.nodes * rules.stages
    gpu = slot % gpus
    if now_s < books.gpu_end_s[gpu] < inf and now_s < books.gpu_end_s[gpu + gpus] < inf:
        books.slowed[gpu] = 1
        rescale(view, books, rules, gpu, rules.forward_slow, now_s)
        rescale(view, books, rules, gpu + gpus, rules.backward_slow, now_s)


@inlined
def speed_up(view: View, books: Books, rules: Rules, slot: int, now_s: float) -> None:
    """Relax what runs on beside an operation that has ended."""
    gpus = rules.nodes * rules.stages
    gpu = slot % gpus
    if not books.slowed[gpu]:
        return
    books.slowed[gpu] = 0
    if books.gpu_end_s[gpu] < inf:
        rescale(view, books, rules, gpu, 1.0 / rules.forward_slow, now_s)
    elif books.gpu_end_s[gpu + gpus] < inf:
        rescale(view, books, rules, gpu + gpus, 1.0 / rules.backward_slow, now_s)
