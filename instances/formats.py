"""Names of the formats that people have, by how a file begins: for hints where another is read."""

from __future__ import annotations

import re

from lemix_opt.files import existing_file, utf8_of

_LOOKED_AT = 2**12
_ZONED = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?([+-]\d\d:?\d\d|Z)", re.ASCII)
UNREAD = "not read yet"
"""Stands in the name of a format without a reader."""
_LATER = f"; workloads of this format are {UNREAD}"
_READ_BY = "; 'lemix import {} FILE' reads it"
_QUERY = (
    "the counters that are read come from nvidia-smi "
    "--query-gpu=timestamp,index,utilization.gpu,memory.used --format=csv -l 1"
)
_JSON_KEYS = (
    (("input_length", "output_length"), f"a Mooncake trace of requests in JSON lines{_LATER}"),
    (
        ("backend", "request_throughput"),
        f"a result of vLLM's benchmark in JSON (vllm bench serve --save-result){_LATER}",
    ),
    (("ttfts", "itls"), f"a result of vLLM's benchmark in JSON{_LATER}"),
    (("resourceSpans",), f"OpenTelemetry's traces in JSON{_READ_BY.format('otlp')}"),
    (("resource_spans",), f"OpenTelemetry's traces in JSON{_READ_BY.format('otlp')}"),
    (("scopeSpans",), f"OpenTelemetry's traces in JSON{_READ_BY.format('otlp')}"),
    (("resourceMetrics",), "OpenTelemetry's metrics in JSON, which have no spans"),
    (("resourceLogs",), "OpenTelemetry's logs in JSON, which have no spans"),
    (("data", "spans", "operationName"), f"Jaeger's traces in JSON{_READ_BY.format('otlp')}"),
    (("traceEvents",), f"a trace of the PyTorch profiler in JSON{_READ_BY.format('kineto')}"),
    (("ph", "ts"), "an array of Chrome's trace events in JSON"),
    (("traceId", "localEndpoint"), "Zipkin's spans in JSON; export OTLP or Jaeger's JSON"),
    (
        ("context", "trace_id", "start_time"),
        "what OpenTelemetry's console exporter prints; export OTLP in JSON",
    ),
    (("conversations",), f"conversations in JSON such as ShareGPT's{_LATER}"),
    (("lemix-opt instance",), "an instance file of this toolkit"),
    (("lemix-opt schedule",), "a schedule file of this toolkit"),
)
"""Keys that all stand at the beginning of a JSON file, and what it is then."""
_TABLES = (
    (
        ("timestamp", "numimages", "contexttokens", "generatedtokens"),
        f"Azure's trace of multimodal requests of 2025{_LATER}",
    ),
    (("timestamp", "contexttokens", "generatedtokens"), "Azure's trace of LLM requests"),
    (
        ("timestamp", "model", "request tokens", "response tokens"),
        f"BurstGPT's trace of requests{_LATER}",
    ),
    (
        ("request_id", "input_toks", "output_toks", "queued_ts"),
        f"vLLM's log of requests{_READ_BY.format('vllm')}",
    ),
    (
        ("timestamp", "pid"),
        f"nvidia-smi's list of processes (--query-compute-apps); {_QUERY}",
    ),
    (("timestamp", "memory", "graphics"), f"nvidia-smi's list of clocks; {_QUERY}"),
    (("timestamp", "utilization.gpu"), f"a log of nvidia-smi{_READ_BY.format('nvidia-smi')}"),
    (("timestamp", "memory.used"), f"a log of nvidia-smi{_READ_BY.format('nvidia-smi')}"),
)
"""Columns that all stand in a header, and what the file is then."""
_SMI_TABLE = re.compile(r"^\s*#\s*(date|time|gpu)\b.*$", re.IGNORECASE)


def named(text: str) -> str:
    """Say what a text's beginning looks like; empty where nothing is known.

    Examples
    --------
    >>> named('{"timestamp": 0, "input_length": 6758, "output_length": 500}')[:16]
    'a Mooncake trace'
    """
    start = text[:_LOOKED_AT].lstrip("\ufeff \t\r\n")
    if start.startswith(("{", "[")):
        return _json_named(start)
    lines = start.splitlines()
    first = lines[0] if lines else ""
    if start.startswith("PK\x03\x04"):
        return "a zip file"
    if start.startswith("PAR1"):
        return "a Parquet file"
    if first.lstrip().lower().startswith("<?xml") or start.startswith("<"):
        return "XML or HTML"
    if _SMI_TABLE.match(first) or start.startswith("# gpu"):
        return f"a log of nvidia-smi dmon or pmon; {_QUERY}"
    if "NVIDIA-SMI" in start and "+--" in start:
        return f"the table that nvidia-smi prints for people; {_QUERY}"
    if re.match(r"GPU \d+: ", first):
        return f"the list that nvidia-smi -L prints; {_QUERY}"
    if "==NVSMI LOG==" in start:
        return f"what nvidia-smi -q prints; {_QUERY}"
    return _table_named(first, lines[1:])


def _json_named(start: str) -> str:
    for keys, name in _JSON_KEYS:
        if all(f'"{key}"' in start for key in keys):
            return name
    return "JSON of another kind"


def _table_named(header: str, rows: list[str]) -> str:
    cells = {cell.strip().strip('"').split(" [")[0].lower() for cell in _split(header)}
    for columns, name in _TABLES:
        if cells.issuperset(columns):
            if name.startswith("Azure's trace of LLM") and rows:
                # Those of 2023 have no offset.
                if any(map(_ZONED.match, rows)):
                    return f"Azure's trace of LLM requests of 2024, with offsets from UTC{_LATER}"
                return f"{name} of 2023"
            return name
    return ""


def _split(header: str) -> list[str]:
    return header.split(separator_of(header) or ",")


def separator_of(header: str) -> str:
    """Return the separator other than a comma that a header's names stand between, or nothing."""
    found = max(";\t|", key=header.count)
    return found if header.count(found) > header.count(",") else ""


def format_hint(text: str) -> str | None:
    """Return a sentence about what a text looks like, None where nothing is known."""
    name = named(text)
    return f"It looks like {name}" if name else None


def named_file(path: str) -> str:
    """Say what a file looks like; empty where there is no file, or nothing is known."""
    with existing_file(path, "a file").open("rb") as file:
        return named(utf8_of(file.read(_LOOKED_AT)).decode("utf-8", "replace"))
