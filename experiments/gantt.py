"""Gantt charts: what every GPU runs, when."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lemix_opt.errors import FieldError, MissingExtraError
from lemix_opt.evaluation import response_s
from lemix_opt.files import write_atomically
from lemix_opt.instance import Instance
from lemix_opt.schedule import BACKWARD, OFFLOAD, RELOAD, SYNC, UPDATE, Schedule

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, told apart with any colour vision.
COLOURS = {
    "inference forward": "#56B4E9",
    "training forward": "#E69F00",
    "backward": "#D55E00",
    "update": "#999999",
    "weight sync": "#009E73",
    "offload": "#CC79A7",
    "reload": "#F0E442",
}
NAMES = {
    BACKWARD: "backward",
    UPDATE: "update",
    SYNC: "weight sync",
    OFFLOAD: "offload",
    RELOAD: "reload",
}
FORMATS = ("png", "svg", "pdf")


def can_plot() -> bool:
    """Whether matplotlib is installed."""
    from importlib.util import find_spec

    return find_spec("matplotlib") is not None


def plot_gantt(
    instance: Instance, schedule: Schedule, *, ax: Axes | None = None, title: str = ""
) -> Axes:
    """Draw one bar per operation, one line per GPU; late requests are hatched.

    Parameters
    ----------
    instance : Instance
        Kinds and SLOs of the tasks.
    schedule : Schedule
        What is drawn.
    ax : matplotlib Axes, optional
        Where to draw; a new figure when omitted.
    title : str
        Title above.

    Returns
    -------
    matplotlib Axes
        Its figure is ``ax.figure``; nothing is shown.

    Raises
    ------
    MissingExtraError
        Without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch
    except ImportError as error:
        raise MissingExtraError(
            "matplotlib is not installed", hint="pip install 'lemix-opt[plots]'"
        ) from error
    stages = instance.cluster.stages
    gpus = instance.cluster.nodes * stages
    if ax is None:
        ax = Figure(figsize=(11, 0.28 * gpus + 1.6), layout="constrained").subplots()
    rows, work = schedule.operations, instance.workload
    late = work.is_inference & (response_s(instance, schedule) > work.slo_s + 1e-9)
    drawn = set()
    for task, phase, stage, node, start, end in zip(
        *(c.tolist() for c in (rows.task, rows.phase, rows.stage, rows.node)),
        rows.start_s.tolist(),
        rows.end_s.tolist(),
        strict=True,
    ):
        trains = bool(work.is_training[task])
        kind = "training forward" if trains else "inference forward"
        kind = NAMES.get(phase, kind)
        drawn.add(kind)
        hatch: dict[str, Any] = {"hatch": "////"} if late[task] else {}
        ax.barh(
            node * stages + stage,
            end - start,
            left=start,
            height=0.86,
            color=COLOURS[kind],
            edgecolor="black",
            linewidth=0.3,
            **hatch,
        )
    ax.set_yticks(range(gpus))
    ax.set_yticklabels(
        [f"node {n} stage {s}" for n in range(instance.cluster.nodes) for s in range(stages)]
    )
    for node in range(1, instance.cluster.nodes):
        ax.axhline(node * stages - 0.5, color="black", linewidth=0.6)
    ax.set_ylim(gpus - 0.4, -0.6)
    ax.set_xlim(left=0)
    ax.set_xlabel("time [s]")
    ax.tick_params(labelsize=7)
    ax.set_title(title, fontsize=9, loc="left")
    handles = [Patch(color=COLOURS[kind], label=kind) for kind in COLOURS if kind in drawn]
    if bool(late.any()):
        handles.append(Patch(facecolor="white", edgecolor="black", hatch="////", label="late"))
    if handles:
        ax.legend(
            handles=handles,
            fontsize=7,
            loc="lower right",
            bbox_to_anchor=(1, 1),
            ncols=len(handles),
            frameon=False,
        )
    return ax


def save_gantt(
    instance: Instance, schedule: Schedule, path: str | os.PathLike[str], title: str = ""
) -> None:
    """Write a chart as PNG, SVG or PDF, by the ending; the file appears whole or not at all."""
    ending = Path(path).suffix.lstrip(".")
    if ending not in FORMATS:
        raise FieldError(f"ending {ending!r}", where=str(path), expected=", ".join(FORMATS))
    axes = plot_gantt(instance, schedule, title=title)
    buffer = io.BytesIO()
    unstamped: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(
        ending, {}
    )
    axes.figure.savefig(buffer, format=ending, dpi=130, metadata=unstamped)  # type: ignore[union-attr]
    write_atomically(path, buffer.getvalue())
