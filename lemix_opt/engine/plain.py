"""What most runs do without: two kernels, of which the plain one leaves all of it out.

`Rules.beyond` is None for plain rules. numba compiles a kernel for each of its two types, and in
the plain one all of these are constants, so that code for them costs nothing there.
"""

from __future__ import annotations

from lemix_opt.engine.books import Rules
from lemix_opt.engine.jit import inlined


@inlined
def parts_of(rules: Rules) -> int:
    """Return the micro-batches of a training task."""
    return rules.micro_batches if rules.beyond is not None else 1


@inlined
def threads_of(rules: Rules) -> int:
    """Return whether a GPU has a second lane."""
    return rules.threads if rules.beyond is not None else 0


@inlined
def timed_of(rules: Rules) -> int:
    """Return whether waits for memory go by the clock."""
    return rules.timed if rules.beyond is not None else 0


@inlined
def offloads_of(rules: Rules) -> int:
    """Return whether activations may move to the host."""
    return rules.offloads if rules.beyond is not None else 0


@inlined
def threshold_of(rules: Rules) -> int:
    """Return whether memory goes by the published threshold."""
    return rules.threshold if rules.beyond is not None else 0


@inlined
def sync_every_of(rules: Rules) -> int:
    """Return the trained tasks between two weight synchronisations, 0 for none."""
    return rules.sync_every if rules.beyond is not None else 0


@inlined
def generation_of(rules: Rules) -> int:
    """Return the rule by which requests generate tokens, 0 for none."""
    return rules.generation if rules.beyond is not None else 0
