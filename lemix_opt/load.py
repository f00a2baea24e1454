"""The one definition of load: work that is offered over the span in which requests arrive."""

from __future__ import annotations

import numpy as np

from lemix_opt.errors import FieldError
from lemix_opt.instance import Instance
from lemix_opt.workload import Workload


def gpu_seconds(instance: Instance) -> float:
    """Return predicted GPU seconds of all tasks: forwards, backwards and updates on all stages.

    Every task counts with its mean over nodes. An update counts with its all-reduce, which blocks
    the GPU too; hops do not. Where requests generate tokens, they count with their prefill alone.
    """
    costs, trains = instance.costs, instance.workload.is_training
    forward_s = costs.forward_s.sum(axis=(1, 2))
    backward_s = costs.backward_s[:, trains].sum(axis=(1, 2))
    update_s = trains.sum() * costs.closing_s.sum(axis=1)
    nodes_of_class = np.bincount(instance.cluster.node_class, minlength=costs.classes)
    by_class = forward_s + backward_s + update_s
    return float(by_class @ nodes_of_class / instance.cluster.nodes)


def request_span_s(workload: Workload) -> float:
    """Return seconds from the first to the last release of a request.

    Raises
    ------
    FieldError
        Unless requests arrive at two moments or more.
    """
    release_s = workload.release_s[workload.is_inference]
    span_s = float(np.ptp(release_s)) if release_s.size else 0.0
    if not span_s > 0:
        found = f"{release_s.size} requests" + (", all at once" if release_s.size > 1 else "")
        raise FieldError(
            found,
            where="workload.release_s",
            expected="requests that arrive at two moments or more",
            hint="Load is work over the span in which requests arrive; take more tasks, or a "
            "smaller share of training",
        )
    return span_s


def offered_load(instance: Instance) -> float:
    """Return the load: `gpu_seconds` / (N · S · `request_span_s`).

    Training is offered over the span of the requests, whatever the closed loop makes of it, so that
    a load far above 1 means training that goes on long after the last request.

    Raises
    ------
    FieldError
        Unless requests arrive at two moments or more.
    """
    gpus = instance.cluster.nodes * instance.cluster.stages
    return gpu_seconds(instance) / (gpus * request_span_s(instance.workload))
