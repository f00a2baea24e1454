"""Metrics of token generation: time to first token, time between tokens, what was cut off."""

from __future__ import annotations

from math import nan
from typing import Any

import numpy as np

from lemix_opt.checks import FloatArray
from lemix_opt.instance import Instance
from lemix_opt.percentile import percentile
from lemix_opt.schedule import DONE, Schedule


def ttft_s(instance: Instance, schedule: Schedule) -> FloatArray:
    """Seconds from release to first token by request, shape (requests,); infinity without one.

    Queueing is part of it; the figure of the published LeMix code begins when the request does.
    """
    requests = instance.workload.is_inference
    if schedule.generated is None:
        return np.empty(0)
    release_s = instance.workload.release_s
    return np.asarray((schedule.generated.first_token_s - release_s)[requests])


def tbt_s(schedule: Schedule) -> FloatArray:
    """Mean seconds between tokens by request, for those that are done and made two or more."""
    made = schedule.generated
    if made is None:
        return np.empty(0)
    several = (schedule.end_state == DONE) & (made.tokens > 1)
    span_s = made.last_token_s[several] - made.first_token_s[several]
    return np.asarray(span_s / (made.tokens[several] - 1))


def token_metrics(instance: Instance, schedule: Schedule) -> dict[str, Any]:
    """Return the metrics of `lemix_opt.Score` about tokens, by name; NaN or 0 without any."""
    first, between, made = ttft_s(instance, schedule), tbt_s(schedule), schedule.generated
    done = schedule.end_state == DONE
    cut = 0 if made is None else np.sum(done & (made.tokens < instance.workload.output_tokens))
    return {
        "ttft_p50_s": percentile(first, 50),
        "ttft_p95_s": percentile(first, 95),
        "ttft_p99_s": percentile(first, 99),
        "tbt_mean_s": float(between.mean()) if between.size else nan,
        "tbt_p99_s": percentile(between, 99),
        "generated_tokens": 0 if made is None else int(np.sum(made.tokens)),
        "preemptions": 0 if made is None else int(np.sum(made.preemptions)),
        "truncated": int(cut),
    }


def alone_s(instance: Instance) -> FloatArray:
    """Predicted seconds of every task's forward, or of all its tokens, alone on the best node.

    Shape (T,).
    """
    costs, classes = instance.costs, np.unique(instance.cluster.node_class)
    if instance.generation is None or costs.iteration is None:
        forward_s = costs.forward_s.sum(axis=2) + costs.hop_s.sum(axis=2)
        return np.asarray(forward_s[classes].min(axis=0))
    work = instance.workload
    by_class = [costs.iteration.alone_s(k, work.prompt_tokens, work.output_tokens) for k in classes]
    return np.asarray(np.min(by_class, axis=0))
