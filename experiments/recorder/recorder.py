"""Record the task mix of LeMix on a real pipeline."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.recorder.devices import Gpu, devices_for, processor_name, torch_or_error
from experiments.recorder.pipeline import Pipeline
from experiments.recorder.recorded import as_trace
from instances import generate
from lemix_opt.checks import choice, whole
from lemix_opt.errors import FieldError
from lemix_opt.recording import Provenance
from lemix_opt.result import versions
from lemix_opt.schedule import BACKWARD, FORWARD, UPDATE
from lemix_opt.trace import Trace
from lemix_opt.workload import Workload

RELEASE_MODES = ("async", "sync")
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class Settings:
    """What is recorded.

    Parameters
    ----------
    tasks : int, default 60
        Tasks, training ones included.
    training_share : float, default 0.3
        Training tasks / all tasks.
    rate_per_s : float, default 3
        Requests per second, Poisson.
    batch : int, default 4
        Rows of every task.
    longest : int, default 256
        Longer sequences are cut to so many tokens.
    nodes, stages : int, default 1 and 2
        Replicas, and stages of each.
    hidden, heads, layers, vocabulary : int, default 128, 4, 8, 1024
        Size of the model.
    release_mode : {"async", "sync"}, default "async"
        Closed loop of the training tasks.
    device : {"auto", "cpu", "cuda"}, default "auto"
        Where stages run.
    threads : int, default 1
        Threads of one operation on a processor.
    seed : int, default 0
        Seed of arrivals, kinds, lengths, tokens and weights.

    Raises
    ------
    FieldError
        If a value is out of range.
    """

    tasks: int = 60
    training_share: float = 0.3
    rate_per_s: float = 3.0
    batch: int = 4
    longest: int = 256
    nodes: int = 1
    stages: int = 2
    hidden: int = 128
    heads: int = 4
    layers: int = 8
    vocabulary: int = 1024
    release_mode: str = "async"
    device: str = "auto"
    threads: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("tasks", "batch", "nodes", "stages", "hidden", "heads", "threads"):
            whole(name, getattr(self, name), minimum=1)
        whole("longest", self.longest, minimum=2)
        whole("vocabulary", self.vocabulary, minimum=2)
        whole("layers", self.layers, minimum=self.stages)
        choice("release_mode", self.release_mode, RELEASE_MODES)
        choice("device", self.device, DEVICES)
        if self.hidden % self.heads:
            raise FieldError(
                f"{self.hidden} over {self.heads} heads", where="hidden", expected="a multiple"
            )


def record(settings: Settings) -> Trace:
    """Run the tasks for real and return their trace, of truth ``recorded``.

    Arrivals, kinds and lengths are drawn as `instances.generate` draws them. Tasks go to the nodes
    in turn, so that two recordings of a seed decide alike. Every shape runs once before the clock
    starts, which warms up and measures memory.

    Raises
    ------
    MissingExtraError
        If PyTorch is not installed.
    FieldError
        If a GPU is asked for and there is none.
    """
    torch = torch_or_error()
    from experiments.recorder.stage import Shape, TorchStage, draw_rows

    work = _workload(settings)
    node = np.arange(work.tasks) % settings.nodes
    training = work.is_training.tolist()
    tokens = work.prompt_tokens.tolist()
    rows = draw_rows(tokens, settings.batch, settings.vocabulary, settings.seed)
    shape = Shape(
        settings.hidden, settings.heads, settings.layers, settings.vocabulary, settings.longest
    )
    places = devices_for(torch, settings.device, settings.nodes, settings.stages, settings.threads)
    stages = [
        [
            TorchStage(shape, s, settings.stages, rows, training, device, settings.seed + s)
            for s, device in enumerate(replica)
        ]
        for replica in places
    ]
    peaks, held = _measure(stages, tokens, training)
    resident = np.array([[float(stage.resident_bytes()) for stage in stages[0]]])
    pipeline = Pipeline(stages, work, node, settings.release_mode)
    zero_ns = pipeline.run()
    return as_trace(
        pipeline.ran,
        zero_ns,
        pipeline.put_ns,
        work,
        node,
        _memory(places),
        resident,
        held,
        peaks,
        settings.release_mode,
        _provenance(settings, places, torch),
    )


def _workload(settings: Settings) -> Workload:
    drawn = generate(
        settings.tasks,
        training_share=settings.training_share,
        rate_per_s=settings.rate_per_s,
        batch=settings.batch,
        seed=settings.seed,
    )
    # The padded row has one token more, which training predicts.
    tokens = np.minimum(drawn.prompt_tokens, settings.longest)
    return Workload(drawn.kind, drawn.release_s, drawn.batch, tokens)


def _measure(
    stages: list[list[Any]], tokens: list[int], training: list[bool]
) -> tuple[dict[tuple[int, int, int], int], np.ndarray[Any, np.dtype[np.float64]]]:
    """Run every shape once on every replica; return peaks by operation and bytes held by task."""
    peaks: dict[tuple[int, int, int], int] = {}
    held = np.zeros((1, len(tokens), len(stages[0])))
    for replica in stages:
        # A first update allocates the optimizer's states, which are resident.
        warm = training.index(True) if True in training else 0
        _run_once(replica, warm, training[warm])
        known: dict[tuple[int, bool], int] = {}
        for task, shape in enumerate(zip(tokens, training, strict=True)):
            like = known.setdefault(shape, task)
            if like == task:
                found, held[0, task] = _run_once(replica, task, training[task])
                peaks |= found
            else:
                alike = {key: size for key, size in peaks.items() if key[0] == like}
                peaks |= {(task, phase, s): size for (_, phase, s), size in alike.items()}
                held[0, task] = held[0, like]
    return peaks, held


def _run_once(
    replica: list[Any], task: int, trains: bool
) -> tuple[dict[tuple[int, int, int], int], list[float]]:
    """Run all operations of a task; return their peaks, and what the task held at most by stage."""
    peaks: dict[tuple[int, int, int], int] = {}
    kept, most = [0] * len(replica), [0.0] * len(replica)
    given: Any = None

    def step(phase: int, s: int, work: Any) -> Any:
        replica[s].enter()
        made, peak, left = replica[s].measured(work)
        peaks[task, phase, s] = peak
        most[s] = max(most[s], float(kept[s] + peak))
        kept[s] = max(0, kept[s] + left)
        return made

    for s, stage in enumerate(replica):
        given = step(FORWARD, s, lambda stage=stage, x=given: stage.forward(task, x))
    given = None
    for s in range(len(replica) - 1, -1, -1) if trains else ():
        stage = replica[s]
        given = step(BACKWARD, s, lambda stage=stage, x=given: stage.backward(task, x))
        step(UPDATE, s, stage.update)
    return peaks, most


def _memory(places: list[list[Any]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Bytes of every stage's device; stages of one device have equal parts of it."""
    names = [device.name for replica in places for device in replica]
    return np.array(
        [[float(d.memory_bytes() // names.count(d.name)) for d in replica] for replica in places]
    )


def _provenance(settings: Settings, places: list[list[Any]], torch: Any) -> Provenance:
    s, device = settings, places[0][0]
    names = sorted({d.name for replica in places for d in replica})
    if isinstance(device, Gpu):
        chip = f"{torch.cuda.get_device_name(device.index)}, {len(names)} for "
        chip += f"{s.nodes * s.stages} stages"
    else:
        chip = f"{processor_name()}, all stages on one machine, {s.threads} thread(s) each"
    source = (
        f"a pipeline of {s.nodes} x {s.stages} threads on {chip}; decoder of {s.layers} layers, "
        f"hidden {s.hidden}, {s.heads} heads, vocabulary {s.vocabulary}, float32, AdamW; "
        f"tasks of {s.batch} rows, lengths log-normal with hh-rlhf's moments, cut at {s.longest}; "
        f"Poisson {s.rate_per_s:g}/s, {s.release_mode} training; random tokens, seed {s.seed}. "
        "Predicted costs are the recorded ones; nodes count as alike. A backward's cost holds its "
        f"update. Bytes: {device.how_measured}"
    )
    if not isinstance(device, Gpu):
        source += "; a stage's memory is an equal part of the machine's"
    tools = {**versions(), "torch": str(torch.__version__), "system": platform.system()}
    clock = f"{device.how_timed}; 0 = start of the run, times rounded to 2^-30 s"
    return Provenance("recorded", source, clock, tools, warnings=_load())


def _load() -> tuple[str, ...]:
    """Say how busy the machine was, where its system tells."""
    if not hasattr(os, "getloadavg"):
        return ()
    return (
        f"{os.getloadavg()[0]:.1f} threads on average wanted one of the machine's "
        f"{os.cpu_count()} cores in the minute of the run, others' included",
    )
