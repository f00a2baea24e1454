"""Limits of a serving engine that its log does not state, estimated from what it did log."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lemix_opt.checks import BoolArray, FloatArray, IntArray
from lemix_opt.errors import FieldError
from lemix_opt.percentile import percentile
from lemix_opt.recording import Recording
from lemix_opt.table import Table

SAME_S = 2e-3
"""Stamps of one iteration lie closer together than this; no iteration is that short."""
KV_SHORT_PCT = 95.0
"""From here on memory may hold up requests."""
USUAL_CAP, USUAL_CHUNK = 256, 2048
"""vLLM's defaults on most GPUs, for what a recording does not show."""
LEAST_STEPS = 4
LEAST_SHARE = 0.1
"""Of groups that show a property which others cannot have."""


@dataclass(frozen=True)
class Estimate:
    """A limit with how it was found.

    Parameters
    ----------
    value, low, high : float
        The estimate, and the range that 90 % of its samples lie in, or that it may have.
    unit : str
        Its unit.
    provenance : {"fitted", "assumed"}
        Whether the recording shows it.
    how : str
        From what, in words.
    """

    value: float
    low: float
    high: float
    unit: str
    provenance: str
    how: str


@dataclass(frozen=True)
class ServingLimits:
    """What `fit_limits` finds.

    Parameters
    ----------
    kv_tokens : Estimate
        Tokens whose keys and values fit.
    batch_cap : Estimate
        Most requests that run together.
    chunk_tokens : Estimate
        Most tokens of one iteration.
    ahead : Estimate
        Whether iterations are formed while the one before runs (1) or after it (0); the share of
        requests that show it is in `how`.
    """

    kv_tokens: Estimate
    batch_cap: Estimate
    chunk_tokens: Estimate
    ahead: Estimate


def fit_limits(recording: Recording) -> ServingLimits:
    """Estimate the limits of a vLLM engine from its request log and time series.

    Nothing of how long iterations took goes in, and no error of a replay.

    Parameters
    ----------
    recording : Recording
        Requests with all stamps, and samples of ``running_requests, waiting_requests,
        kv_cache_pct, prompt_tokens_per_s, generated_tokens_per_s``.

    Raises
    ------
    FieldError
        If requests or samples are missing, or no sample shows the KV cache in use.
    """
    seen = _Seen(recording)
    return ServingLimits(seen.kv_tokens(), seen.batch_cap(), seen.chunk_tokens(), seen.ahead())


def series(samples: Table, metric: str) -> FloatArray:
    """Return the values of a metric in order of time.

    Raises
    ------
    FieldError
        If there is none.
    """
    mine = samples["metric"] == metric
    if not mine.any():
        raise FieldError(f"no {metric}", where="samples", expected="the engine's time series")
    return np.asarray(samples["value"][mine][np.argsort(samples["time_s"][mine], kind="stable")])


class _Seen:
    """Requests and samples of a recording as arrays."""

    def __init__(self, recording: Recording) -> None:
        requests, samples = recording.requests, recording.samples
        if not requests.rows:
            raise FieldError("no requests", where="recording", expected="a log of requests")
        self.prompt: IntArray = requests["prompt_tokens"]
        self.queued_s: FloatArray = requests["queued_s"]
        self.scheduled_s: FloatArray = requests["scheduled_s"]
        self.first_s: FloatArray = requests["first_token_s"]
        self.last_s: FloatArray = requests["last_token_s"]
        self.running = series(samples, "running_requests")
        self.waiting = series(samples, "waiting_requests")
        self.kv_pct = series(samples, "kv_cache_pct")
        self.prompt_rate = series(samples, "prompt_tokens_per_s")
        self.token_rate = series(samples, "generated_tokens_per_s")
        self.time_s = np.sort(samples["time_s"][samples["metric"] == "running_requests"])

    def kv_tokens(self) -> Estimate:
        """Tokens held over the share of the cache in use, while it is known who runs.

        The youngest is preempted first. When one comes back the log does not show it, so that this
        ends with the first request that ends, and so leaves memory, after one was preempted. Tokens
        made are counted by iterations: generated tokens over running requests.
        """
        # While prompts come in, the moment of a sample within its second counts for much.
        found = self._held_per_share(self.prompt_rate == 0)
        if len(found) < LEAST_STEPS:
            found = self._held_per_share(np.full(self.running.shape, True))
        if not found:
            raise FieldError(
                "no sample of the KV cache while it is known who runs",
                where="samples.kv_cache_pct",
                expected="samples from the first request on",
            )
        low, value, high = (percentile(found, q) for q in (5, 50, 95))
        how = f"tokens of known running requests / KV cache in use, {len(found)} samples"
        return Estimate(value, low, high, "tokens", "fitted", how)

    def _held_per_share(self, wanted: BoolArray) -> list[float]:
        """Return tokens of running requests over the share of the cache in use, by sample."""
        edges = self._edges()
        steps = np.concatenate([[0.0], np.cumsum(self._steps_per_s() * np.diff(edges))])
        found: list[float] = []
        put_off = before = 0
        for k in np.flatnonzero(wanted).tolist():
            now, run = float(self.time_s[k]), int(self.running[k])
            held = np.flatnonzero((self.scheduled_s <= now) & ~(self.last_s <= now))
            ended = int(np.sum(self.last_s <= now))
            if put_off and ended > before:
                break
            put_off, before = max(held.size - run, 0), ended
            if not run or held.size < run or self.kv_pct[k] <= 0:
                continue
            oldest = held[np.lexsort((held, self.scheduled_s[held]))][:run]
            first = self.first_s[oldest]
            made = np.interp(now, edges, steps) - np.interp(first, edges, steps) + 1
            tokens = self.prompt[oldest] + np.where(first <= now, made, 0.0)
            found.append(float(tokens.sum()) / float(self.kv_pct[k]) * 100)
        return found

    def batch_cap(self) -> Estimate:
        """Take the largest number running if it lasts while others wait and memory is free."""
        most = int(self.running.max())
        capped = (self.running == most) & (self.waiting > 0) & (self.kv_pct < KV_SHORT_PCT)
        if capped.sum() >= LEAST_STEPS:
            how = f"{int(capped.sum())} samples at it, others waiting and memory free"
            return Estimate(most, most, most, "requests", "fitted", how)
        usual = max(USUAL_CAP, most)
        how = f"not reached: at most {most} ran; vLLM's default"
        return Estimate(usual, most, np.inf, "requests", "assumed", how)

    def chunk_tokens(self) -> Estimate:
        """Prompt tokens per iteration while requests wait though memory is free.

        Counted from end to end of iterations, over the longest such stretch before memory is first
        short, as prompts that are prefilled again are not in the log; a prompt that is cut at an
        end of it is the uncertainty. Settings are powers of two, so that the nearest one is taken.
        """
        ends = self._boundaries()
        best: tuple[int, int] = (0, 0)
        start = 0
        held_up = self._held_up(ends)
        for k in range(ends.size + 1):
            if k == ends.size or not held_up[k]:
                if k - start > best[1] - best[0]:
                    best = start, k
                start = k + 1
        begin, end = best[0], best[1] - 1
        if end - begin < LEAST_STEPS:
            how = "no stretch of iterations in which only it holds requests up; vLLM's default"
            return Estimate(USUAL_CHUNK, 0, np.inf, "tokens", "assumed", how)
        inside = (self.first_s > ends[begin] + SAME_S) & (self.first_s <= ends[end] + SAME_S)
        raw = float(self.prompt[inside].sum()) / (end - begin)
        cut = float(self.prompt[inside].max(initial=0)) / (end - begin)
        value = 2.0 ** round(np.log2(max(raw, 1.0)))
        how = f"{raw:.0f} ± {cut:.0f} prompt tokens in each of {end - begin} iterations in a row; "
        how += "the nearest power of two"
        return Estimate(value, raw - cut, raw + cut, "tokens", "fitted", how)

    def ahead(self) -> Estimate:
        """Whether an iteration's requests are chosen while the one before it runs.

        Of several requests that are scheduled at one moment only the last can be cut, so that the
        first has its token at the end of that iteration. Formed after the one before, nothing can
        start or end in between; formed ahead, the end of the one before lies there, and shows where
        a request starts or ends with it.
        """
        order = np.argsort(self.scheduled_s, kind="stable")
        order = order[np.isfinite(self.first_s[order])]
        moment = np.cumsum(np.diff(self.scheduled_s[order], prepend=-np.inf) > SAME_S)
        stamps = self._stamps()
        between = []
        for number in np.unique(moment).tolist():
            group = order[moment == number]
            if group.size > 1:
                low = np.searchsorted(stamps, self.scheduled_s[group[-1]] + SAME_S)
                first = self.first_s[group].min()
                between.append(bool(low < np.searchsorted(stamps, first - SAME_S)))
        if not between:
            how = "no two requests were scheduled at one moment"
            return Estimate(0.0, 0.0, 1.0, "", "assumed", how)
        share = float(np.mean(between))
        how = f"{100 * share:.0f} % of {len(between)} groups that were scheduled together saw "
        how += "another iteration end before their first token"
        return Estimate(float(share > LEAST_SHARE), share, share, "", "fitted", how)

    def _stamps(self) -> FloatArray:
        stamps = np.sort(np.concatenate([self.scheduled_s, self.first_s, self.last_s]))
        return np.asarray(stamps[np.isfinite(stamps)])

    def _edges(self) -> FloatArray:
        """Return the times between which samples were counted."""
        step = float(np.median(np.diff(self.time_s))) if self.time_s.size > 1 else 1.0
        return np.concatenate([[self.time_s[0] - step], self.time_s])

    def _steps_per_s(self) -> FloatArray:
        return np.asarray(self.token_rate / np.maximum(self.running, 1))

    def _boundaries(self) -> FloatArray:
        """Return ends of iterations, as far as a request started or ended with one."""
        stamps = self._stamps()
        return np.asarray(stamps[np.diff(stamps, prepend=-np.inf) > SAME_S])

    def _held_up(self, ends: FloatArray) -> BoolArray:
        """Whether a request waits over each end of an iteration, memory never having been short."""
        # A sample is of some moment of the second before it.
        short = self._edges()[:-1][self.kv_pct >= KV_SHORT_PCT]
        free = ends <= (short[0] if short.size else self.time_s[-1])
        waits = [
            bool(np.any((self.queued_s < now - SAME_S) & (self.scheduled_s > now + SAME_S)))
            for now in ends.tolist()
        ]
        return np.asarray(free & np.array(waits, dtype=bool))
