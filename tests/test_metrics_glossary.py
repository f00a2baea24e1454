"""The glossary of metrics names all that is computed and shown."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from experiments import bench_report, lemix_study, report, risk
from lemix_opt import Score

ROOT = Path(__file__).resolve().parents[1]
GLOSSARY = ROOT / "docs" / "metrics.md"
DEFINED = {
    name
    for line in GLOSSARY.read_text(encoding="utf-8").splitlines()
    if line.startswith("| `")
    for name in re.findall(r"`(\w+)`", line.split("|")[1])
}
# What a row is about, and counts whose title says all.
KEYS = {"noise", "room", "band", "variant", "cells", "worse", "failing", "fails"}
KEYS |= {"forward_s", "training_share", "rate_per_s", "risk", "out_of_memory", "too_large"}
KEYS |= {"cell", "solver", "instances", "solved", "proven", "compared", "reached_best", "beat_best"}


def test_every_metric_of_a_score_is_defined() -> None:
    assert {field.name for field in fields(Score)} <= DEFINED


@pytest.mark.parametrize(
    "columns",
    [
        report.RUN_COLUMNS,
        report.SUMMARY_COLUMNS,
        report.TIME_COLUMNS,
        lemix_study.BAND_COLUMNS,
        lemix_study.CELL_COLUMNS,
        risk.COLUMNS,
        bench_report.SUMMARY_COLUMNS,
    ],
)
def test_every_column_is_defined(columns: tuple[report.Column, ...]) -> None:
    assert {column.name for column in columns} <= DEFINED | KEYS


def test_documents_lead_to_it() -> None:
    for name in ("README.md", "docs/lemix.md", "docs/benchmarks.md", "docs/replay.md"):
        assert "docs/metrics.md" in (ROOT / name).read_text(encoding="utf-8"), name
