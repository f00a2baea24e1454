"""Requests that vLLM served, out of the spans it reports for them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from instances.recordings.otlp_spans import Span, Value
from instances.recordings.source import shortened
from lemix_opt.errors import excerpt
from lemix_opt.recording import UNKNOWN, table
from lemix_opt.table import Table

_NAME = "llm_request"
_LATENCY = "gen_ai.latency."
_TOKENS = {
    "prompt_tokens": ("gen_ai.usage.prompt_tokens", "gen_ai.usage.input_tokens"),
    "output_tokens": ("gen_ai.usage.completion_tokens", "gen_ai.usage.output_tokens"),
}
_AFTER_ARRIVAL = {
    "scheduled_s": f"{_LATENCY}time_in_queue",
    "first_token_s": f"{_LATENCY}time_to_first_token",
    "last_token_s": f"{_LATENCY}e2e",
}
"""Stamps of a request, and the attribute that has its seconds after the arrival."""
_MOST_S = 1e9


@dataclass
class Served:
    """Requests found so far."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)

    def add(self, span: Span, node: int) -> None:
        """Take a span in if it stands for a request; it begins when the request arrives."""
        given = span.attributes
        if span.name != _NAME and not any(key.startswith(_LATENCY) for key in given):
            return
        row: dict[str, Any] = {"queued_ns": span.start_ns, "node": node}
        row["request"] = str(given.get("gen_ai.request.id", ""))
        wrong = []
        for name, keys in _TOKENS.items():
            key, value = next(((k, given[k]) for k in keys if k in given), ("", None))
            row[name] = _count(value)
            wrong += [key] if value is not None and row[name] == UNKNOWN else []
        for name, key in _AFTER_ARRIVAL.items():
            row[name] = _seconds(given.get(key))
            wrong += [key] if key in given and math.isnan(row[name]) else []
        known = [row[name] for name in _AFTER_ARRIVAL if not math.isnan(row[name])]
        said = f"line {span.line}: request {excerpt(row['request'], 40)!r}"
        if known != sorted(known):
            self.odd.append(f"{said} has its last token or first token too early; left out")
            return
        if wrong:
            self.odd.append(f"{said} has no number as {', '.join(wrong)}; unknown there")
        self.rows.append(row)

    def table(self, zero_ns: int) -> tuple[Table, list[str]]:
        """Return the table of requests with seconds since `zero_ns`, and what is to be said."""
        if not self.rows and not self.odd:
            return table("requests", {}), []
        columns: dict[str, list[Any]] = {
            name: [row[name] for row in self.rows] for name in ("request", "node", *_TOKENS)
        }
        # Seconds after the arrival are no longer than a request; only stamps need whole numbers.
        queued = [(row["queued_ns"] - zero_ns) / 1e9 for row in self.rows]
        columns["queued_s"] = queued
        for name in _AFTER_ARRIVAL:
            pairs = zip(queued, self.rows, strict=True)
            columns[name] = [at + row[name] for at, row in pairs]
        said = shortened(self.odd)
        said.append(
            f"{len(self.rows)} spans of vLLM's requests are in the table of requests: they begin "
            "at the arrival, and latencies count from there"
        )
        return table("requests", columns), said


def _count(value: Value | None) -> int:
    number = _number(value)
    return int(number) if 0 <= number < 2**53 and number == math.floor(number) else UNKNOWN


def _seconds(value: Value | None) -> float:
    number = _number(value)
    return number if 0 <= number < _MOST_S else math.nan


def _number(value: Value | None) -> float:
    """Return a number that is not negative, also out of a text; −1 for anything else."""
    try:
        found = -1.0 if value is None else float(value)
    except (ValueError, OverflowError):
        return -1.0
    return found if math.isfinite(found) and found >= 0 else -1.0
