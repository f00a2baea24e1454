"""How errors on an unseen GPU type fall with measured points: tables and a chart."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.gantt import can_plot
from experiments.tables import Column, text_table, write_parquet
from lemix_opt.files import made_folder, write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from predictors.transfer import TransferError

ALL = "types with all, by rows"
COLUMNS = (
    Column("gpu", "left out"),
    Column("measured", "points"),
    Column("which", "which"),
    Column("draws", "draws"),
    Column("rows", "rows predicted"),
    Column("mape_pct", "mean error [%]", 1),
    Column("low_pct", "least [%]", 1),
    Column("high_pct", "most [%]", 1),
    Column("bar", ""),
)
_BAR_PCT = 2.0
"""Percent that one sign of the text chart stands for."""
_WIDEST = 40


def curve_rows(errors: Sequence[TransferError]) -> list[dict[str, Any]]:
    """Return a row per GPU type, number of points and how they came, then means over types by rows.

    The means count only types that have an error for every number of points, so that their change
    is that of the same rows; least and most are over the types.
    """
    rows: list[dict[str, Any]] = [
        {
            "gpu": e.gpu,
            "measured": e.measured,
            "which": _which(e),
            "draws": e.draws,
            "rows": e.rows,
            "mape_pct": e.mape_pct,
            "low_pct": e.low_pct,
            "high_pct": e.high_pct,
        }
        for e in errors
    ]
    kinds = sorted({(e.measured, e.chosen) for e in errors})
    by_gpu = {gpu: [e for e in errors if e.gpu == gpu] for gpu in {e.gpu for e in errors}}
    whole = [own for own in by_gpu.values() if len(own) == len(kinds)]
    for kind in kinds if whole else []:
        own = [next(e for e in errors if (e.measured, e.chosen) == kind) for errors in whole]
        weights = [e.rows / e.draws for e in own]
        mean = sum(w * e.mape_pct for w, e in zip(weights, own, strict=True)) / sum(weights)
        rows.append(
            {
                "gpu": ALL,
                "measured": kind[0],
                "which": _which(own[0]),
                "draws": max(e.draws for e in own),
                "rows": sum(e.rows for e in own),
                "mape_pct": mean,
                "low_pct": min(e.mape_pct for e in own),
                "high_pct": max(e.mape_pct for e in own),
            }
        )
    return rows


def _which(error: TransferError) -> str:
    if not error.measured:
        return "data sheet"
    return "chosen" if error.chosen else "random"


def curve_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table with a bar per row, a sign for every two percent."""
    barred = [{**row, "bar": _bar(float(row["mape_pct"]))} for row in rows]
    return text_table(barred, COLUMNS)


def _bar(error_pct: float) -> str:
    signs = max(1, round(error_pct / _BAR_PCT))
    return "#" * min(signs, _WIDEST) + (">" if signs > _WIDEST else "")


def plot_curve(rows: Sequence[Mapping[str, Any]], *, ax: Axes | None = None) -> Axes:
    """Draw mean errors by measured points, a line per GPU type, with least and most of the draws.

    Dashed are points that were chosen.
    """
    if ax is None:
        from matplotlib.figure import Figure

        ax = Figure(figsize=(7, 4.5), layout="constrained").subplots()
    counts = sorted({row["measured"] for row in rows})
    for gpu in dict.fromkeys(row["gpu"] for row in rows):
        whole = gpu == ALL
        color: Any = "black" if whole else None
        for chosen, style in ((False, "-"), (True, "--")):
            own = [r for r in rows if r["gpu"] == gpu and (r["which"] == "chosen") == chosen]
            at = [counts.index(row["measured"]) for row in own]
            mean, low, high = ([row[f"{n}_pct"] for row in own] for n in ("mape", "low", "high"))
            label = None if chosen else gpu
            (line,) = ax.plot(at, mean, style, marker="o", label=label, color=color, lw=1 + whole)
            color = line.get_color()
            if not (whole or chosen):
                ax.fill_between(at, low, high, color=color, alpha=0.15)
    ax.set_xticks(range(len(counts)), [str(count) for count in counts])
    ax.set_xlabel("measured points of the unseen GPU type")
    ax.set_ylabel("mean absolute error [%]")
    ax.set_ylim(bottom=0)
    ax.legend(fontsize="small")
    return ax


def write_curve(
    rows: Sequence[Mapping[str, Any]], head: Mapping[str, str], folder: Path
) -> list[Path]:
    """Write text, Parquet table and, with matplotlib, a chart into a folder; return the files."""
    made_folder(folder)
    text, table, chart = (folder / f"curve.{end}" for end in ("txt", "parquet", "png"))
    said = "".join(f"{name}: {value}\n" for name, value in head.items())
    write_atomically(text, f"{said}\n{curve_text(rows)}\n".encode())
    write_parquet(rows, table, head)
    if not can_plot():
        # That of an earlier run would look like one of this table.
        chart.unlink(missing_ok=True)
        return [text, table]
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    plot_curve(rows, ax=figure.subplots())
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    write_atomically(chart, buffer.getvalue())
    return [text, table, chart]
