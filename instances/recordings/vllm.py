"""vLLM's log of requests, and what its engine logs each second."""

from __future__ import annotations

import math
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import numpy as np

from instances import schemas
from instances.csv_table import line_of, read_csv
from instances.recordings.clocks import odd_steps
from instances.recordings.source import MAX_TEXT_BYTES, Source, hashes
from lemix_opt.errors import FileFormatError
from lemix_opt.recording import Provenance, Recording, table
from lemix_opt.table import Table

_ORDER = ("queued_ts", "scheduled_ts", "first_token_ts", "last_token_ts")
_METRICS = {
    "prompt_throughput": "prompt_tokens_per_s",
    "gen_throughput": "generated_tokens_per_s",
    "running": "running_requests",
    "waiting": "waiting_requests",
    "kv_cache_pct": "kv_cache_pct",
}
_NOISE_S = 1e-6


def read_vllm(
    path: Source,
    timeseries: Source = "",
    timeseries_zero_s: float = 0.0,
    max_bytes: int = MAX_TEXT_BYTES,
) -> Recording:
    """Read a log of requests, and beside it the engine's time series.

    Arrivals are `queued_ts`: it is of the clock that the other stamps are of, which `arrival_time`
    is not.

    Parameters
    ----------
    path : path-like
        CSV with ``request_id, input_toks, output_toks, queued_ts, scheduled_ts, first_token_ts,
        last_token_ts`` and, where known, ``arrival_time, ttft_s, queue_s, decode_s``. An empty
        stamp is one that did not happen.
    timeseries : path-like, optional
        CSV with ``t, prompt_throughput, gen_throughput, running, waiting, kv_cache_pct``.
    timeseries_zero_s : float, default 0
        Seconds after the first request's arrival at which its `t` is 0: the files do not say.
    max_bytes : int, default 2**26
        Largest content of a file, decompressed.

    Raises
    ------
    FileFormatError
        Naming file, line and column: for a cell that is no number, or stamps of one request that
        go back.
    """
    logged = read_csv(path, Path(path).stem, schemas.VLLM_REQUESTS, "vLLM", max_bytes)
    _check_order(path, logged, max_bytes)
    zero = float(logged["queued_ts"].min())
    requests = table(
        "requests",
        {
            "request": logged["request_id"].tolist(),
            "prompt_tokens": logged["input_toks"],
            "output_tokens": logged["output_toks"],
            **{name.replace("_ts", "_s"): logged[name] - zero for name in _ORDER},
        },
    )
    paths = [path]
    said = _odd(logged)
    clock = f"the server's monotonic clock; 0 = {_stamp(logged, zero)}, the first queued_ts"
    samples = table("samples", {})
    if timeseries:
        paths.append(timeseries)
        samples, more = _samples(timeseries, timeseries_zero_s, max_bytes)
        said += more
        clock += f". Samples: seconds of the engine's log, {timeseries_zero_s:g} s added"
        if not timeseries_zero_s:
            said.append(
                "the zero of the time series is not recorded; it is taken as the first arrival"
            )
    source = "requests served by vLLM, as logged by the server"
    provenance = Provenance("recorded", source, clock, {}, hashes(paths), tuple(said))
    return Recording(provenance, requests=requests, samples=samples)


def _check_order(path: Source, logged: Table, max_bytes: int) -> None:
    for before, after in pairwise(_ORDER):
        unknown = np.isnan(logged[before]) & ~np.isnan(logged[after])
        for bad, expected in (
            (logged[after] < logged[before], f"not before {before}"),
            (unknown, f"empty like {before}"),
        ):
            if bad.any():
                row = int(np.argmax(bad))
                request, value = str(logged["request_id"][row]), float(logged[after][row])
                raise FileFormatError(
                    f"value {_stamp(logged, value)} of request {request[:40]!r}",
                    where=f"{path}:{line_of(path, row, max_bytes)}: row {row + 1}: {after}",
                    expected=expected,
                )


def _stamp(logged: Table, seconds: float) -> str:
    """Return a time of the table as its file counts it."""
    if math.isnan(seconds):
        return "nan"
    stamp = Decimal(logged.origin_ns + round(seconds * 1e9)).scaleb(-9).normalize()
    return f"{stamp:f}"


def _odd(logged: Table) -> list[str]:
    """Say what does not agree within the log."""
    said = []
    if "arrival_time" in logged:
        offset = logged["arrival_time"] - logged["queued_ts"]
        spread = float(np.ptp(offset))
        if spread > _NOISE_S:
            said.append(
                f"arrival_time is of another clock than queued_ts: their difference varies by "
                f"{spread:.3g} s over the log; queued_ts is taken as arrival"
            )
    derived = {
        "ttft_s": ("first_token_ts", "queued_ts"),
        "queue_s": ("scheduled_ts", "queued_ts"),
        "decode_s": ("last_token_ts", "first_token_ts"),
    }
    for name, (end, start) in derived.items():
        if name in logged:
            off = np.abs(logged[name] - (logged[end] - logged[start])) > _NOISE_S
            if off.any():
                said.append(f"{name} is not {end} - {start} in {int(off.sum())} rows; stamps count")
    unfinished = int(np.isnan(logged["last_token_ts"]).sum())
    if unfinished:
        said.append(f"{unfinished} requests have no last token")
    twice = logged["request_id"].size - np.unique(logged["request_id"]).size
    if twice:
        said.append(f"{twice} rows repeat the request_id of another row; each counts as a request")
    back = int(np.sum(np.diff(logged["queued_ts"]) < 0))
    if back:
        said.append(f"{back} rows are queued before the row above them")
    return said


def _samples(path: Source, zero_s: float, max_bytes: int) -> tuple[Table, list[str]]:
    logged = read_csv(path, Path(path).stem, schemas.VLLM_TIMESERIES, "vLLM", max_bytes)
    rows = logged.rows
    samples = table(
        "samples",
        {
            "time_s": np.tile(logged["t"] + zero_s, len(_METRICS)),
            "metric": [name for name in _METRICS.values() for _ in range(rows)],
            "value": np.concatenate([logged[name].astype(np.float64) for name in _METRICS]),
        },
    )
    return samples, odd_steps(logged["t"], range(2, rows + 2), "the time series")
