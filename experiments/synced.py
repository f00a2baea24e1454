"""The separate setting's weight synchronisation in a comparison."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lemix_opt import Instance, Trace
from lemix_opt.weight_sync import WeightSync, published_every


def synced(trace: Trace, policy: Any, seconds: float) -> Trace:
    """Return the trace under weight synchronisation where the policy keeps the kinds apart.

    Parameters
    ----------
    trace : Trace
        Instance and actual costs.
    policy : Policy
        One with a method ``parts(instance)``, the nodes that serve and those that train, is kept
        in step as published: after `published_every` trained tasks. Others train where they serve.
    seconds : float
        Seconds of one synchronisation; 0 for none.
    """
    parts = getattr(policy, "parts", None)
    instance: Instance = trace.instance
    if not seconds or parts is None:
        return trace
    serving, learning = parts(instance)
    apart = tuple(node for node in serving if node not in learning)
    if not apart or not len(learning):
        return trace
    rule = WeightSync(published_every(int(instance.workload.is_training.sum())), seconds, apart)
    return replace(trace, instance=replace(instance, weight_sync=rule))


def describe(seconds: float, training_tasks: int) -> str:
    """Return what a table says of the rule."""
    if not seconds:
        return "none"
    return (
        f"separate only: {seconds:g} s after every {published_every(training_tasks)} trained tasks"
    )
