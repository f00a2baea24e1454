"""The recorder: threads, closed loops and failures without PyTorch, and with it where it is."""

from __future__ import annotations

import importlib.util
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.recorder.devices import Gpu, Processor, devices_for
from experiments.recorder.pipeline import Pipeline
from experiments.recorder.recorded import DISPATCH, as_trace, on_grid
from experiments.recorder.recorder import Settings, record
from instances.trace_files import read_trace, write_trace
from lemix_opt import LemixError, Provenance, Trace, Workload, replay, validate

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="PyTorch (the extra 'record') is not there"
)


class Fake:
    """A stage that hands on what it was given and keeps a log of its calls."""

    def __init__(self, fails_at: int = -1) -> None:
        self.log: list[tuple[str, int, Any]] = []
        self.fails_at, self.entered = fails_at, threading.current_thread()

    def enter(self) -> None:
        self.entered = threading.current_thread()

    def timed(self, work: Callable[[], Any]) -> tuple[Any, int, int]:
        start = time.perf_counter_ns()
        made = work()
        return made, start, max(time.perf_counter_ns(), start + 1)

    def forward(self, task: int, given: Any) -> Any:
        assert threading.current_thread() is self.entered
        if task == self.fails_at:
            raise ValueError("no room")
        self.log.append(("forward", task, given))
        return (given or 0) + 1

    def backward(self, task: int, given: Any) -> Any:
        self.log.append(("backward", task, given))
        return (given or 0) + 10

    def update(self) -> None:
        self.log.append(("update", -1, None))


def run(work: Workload, nodes: int, stages: int, mode: str) -> tuple[Trace, list[list[Fake]]]:
    fakes = [[Fake() for _ in range(stages)] for _ in range(nodes)]
    node = np.arange(work.tasks) % nodes
    line = Pipeline(fakes, work, node, mode)
    zero = line.run()
    shape = (1, work.tasks, stages)
    trace = as_trace(
        line.ran,
        zero,
        line.put_ns,
        work,
        node,
        np.full((nodes, stages), 8.0),
        np.zeros((1, stages)),
        np.ones(shape),
        {},
        mode,
        Provenance("recorded", "fake stages"),
    )
    return trace, fakes


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 3)), min_size=1, max_size=9),
    st.integers(1, 2),
    st.integers(1, 3),
    st.sampled_from(["async", "sync"]),
)
@settings(max_examples=40, deadline=None)
def test_a_recording_is_valid_and_replays_to_its_own_times(
    drawn: list[tuple[bool, int]], nodes: int, stages: int, mode: str
) -> None:
    release = np.cumsum([gap for _, gap in drawn]) * 1e-4
    work = Workload([int(trains) for trains, _ in drawn], release, 1, 5)  # type: ignore[arg-type]
    trace, _ = run(work, nodes, stages, mode)
    assert trace.schedule is not None
    assert validate(trace.instance, trace.schedule) == []
    for timing in ("order", "planned"):
        outcome = replay(trace, trace.schedule, timing)
        assert outcome.schedule == trace.schedule
        assert outcome.end_shift_s is not None
        assert not outcome.end_shift_s.any()
    spans = trace.recording.spans  # type: ignore[union-attr]
    work_s = np.where(spans["phase"] == DISPATCH, 0, spans["end_s"] - spans["start_s"]).sum()
    whole_s = (trace.schedule.operations.end_s - trace.schedule.operations.start_s).sum()
    lost_s = (spans["end_s"] - spans["start_s"]).sum() - work_s
    # The gap between a backward and its update is of neither span.
    assert 0 <= whole_s - work_s - lost_s < 0.1


def test_activations_go_down_and_gradients_up() -> None:
    work = Workload([1, 0], [0.0, 0.0], 1, 5)  # type: ignore[arg-type]
    _, (fakes,) = run(work, 1, 3, "sync")
    assert [("forward", 0, n or None) in fakes[n].log for n in range(3)] == [True] * 3
    assert [(n, fakes[n].log.count(("backward", 0, 10 * (2 - n) or None))) for n in range(3)] == [
        (0, 1),
        (1, 1),
        (2, 1),
    ]
    for fake in fakes:
        at = [what for what, task, _ in fake.log if task in (0, -1)]
        assert at == ["forward", "backward", "update"]


def test_a_failing_stage_ends_the_run_with_its_error() -> None:
    before = threading.active_count()
    work = Workload([0] * 5, np.zeros(5), 1, 5)  # type: ignore[arg-type]
    line = Pipeline([[Fake(), Fake(fails_at=3)]], work, np.zeros(5, dtype=np.int64), "async")
    with pytest.raises(ValueError, match="no room"):
        line.run()
    assert threading.active_count() == before


@given(st.lists(st.integers(0, 10**12), min_size=2, max_size=5))
def test_times_on_the_grid_add_up_exactly(drawn: list[int]) -> None:
    times = sorted(map(on_grid, drawn))
    for start, end in pairwise(times):
        assert start + (end - start) == end
    assert abs(on_grid(drawn[0]) - drawn[0] / 1e9) < 1e-9


class FakeCuda:
    """The part of torch.cuda that is used, on a clock and a heap of its own."""

    def __init__(self, devices: int) -> None:
        self.devices, self.used, self.top, self.clock_ms = devices, 100, 100, 0.0
        self.streams: list[Any] = []

    def is_available(self) -> bool:
        return self.devices > 0

    def device_count(self) -> int:
        return self.devices

    def Stream(self, device: int) -> Any:  # noqa: N802 - as in torch
        self.streams.append(SimpleNamespace(device=device))
        return self.streams[-1]

    def Event(self, enable_timing: bool) -> Any:  # noqa: N802 - as in torch
        assert enable_timing
        event = SimpleNamespace(at=None)

        def record(stream: Any) -> None:
            assert stream in self.streams
            event.at = self.clock_ms

        event.record, event.synchronize = record, lambda: None
        event.elapsed_time = lambda end: end.at - event.at
        return event

    def synchronize(self, device: int) -> None:
        pass

    def reset_peak_memory_stats(self, device: int) -> None:
        self.top = self.used

    def memory_allocated(self, device: int) -> int:
        return self.used

    def max_memory_allocated(self, device: int) -> int:
        return self.top


def test_a_gpu_is_timed_by_events_and_measured_by_its_own_peak() -> None:
    cuda = FakeCuda(3)
    gpu = Gpu(SimpleNamespace(cuda=cuda), 1)

    def work() -> str:
        cuda.clock_ms += 1e-6
        cuda.top, cuda.used = 170, 120
        return "made"

    made, start, end = gpu.timed(work)
    assert (made, end - start) == ("made", 1)
    cuda.used = 100
    assert gpu.measured(work) == ("made", 70, 20)
    cuda.clock_ms = 0
    # Events that say more than the host has waited do not move the start before the call.
    before = time.perf_counter_ns()
    slow = gpu.timed(lambda: setattr(cuda, "clock_ms", 1e9))
    assert before <= slow[1] <= slow[2]


def test_stages_take_the_gpus_in_turn() -> None:
    torch = SimpleNamespace(cuda=FakeCuda(3))
    found = devices_for(torch, "auto", 2, 2, 1)
    assert [[d.name for d in row] for row in found] == [["cuda:0", "cuda:1"], ["cuda:2", "cuda:0"]]
    assert isinstance(devices_for(torch, "cpu", 1, 1, 1)[0][0], Processor)
    none = SimpleNamespace(cuda=FakeCuda(0))
    assert isinstance(devices_for(none, "auto", 1, 1, 1)[0][0], Processor)
    with pytest.raises(LemixError, match="PyTorch sees no GPU"):
        devices_for(none, "cuda", 1, 1, 1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tasks": 0}, "tasks"),
        ({"layers": 1}, "layers"),
        ({"hidden": 30}, "30 over 4 heads"),
        ({"release_mode": "open"}, "one of async, sync"),
        ({"device": "tpu"}, "one of auto, cpu, cuda"),
    ],
)
def test_settings_are_checked(change: dict[str, Any], said: str) -> None:
    with pytest.raises(LemixError, match=said):
        Settings(**change)


SMALL = Settings(
    tasks=8,
    rate_per_s=200.0,
    training_share=0.5,
    batch=2,
    longest=12,
    hidden=16,
    heads=2,
    layers=2,
    vocabulary=32,
    device="cpu",
)


@needs_torch
@pytest.mark.parametrize("mode", ["async", "sync"])
def test_a_small_model_is_recorded_and_replays_exactly(mode: str, tmp_path: Any) -> None:
    trace = record(replace(SMALL, release_mode=mode, nodes=2))
    write_trace(trace, tmp_path / "t.zip")
    again = read_trace(tmp_path / "t.zip")
    assert again.recording == trace.recording
    assert again.schedule is not None
    assert validate(again.instance, again.schedule) == []
    assert replay(again, again.schedule).schedule == trace.schedule
    spans = again.recording.spans  # type: ignore[union-attr]
    counted = {p: int((spans["phase"] == p).sum()) for p in ("forward", "backward", "update")}
    assert counted == {"forward": 16, "backward": 8, "update": 8}
    assert (spans["bytes"][spans["phase"] != DISPATCH] > 0).all()
    held = again.actual.held_bytes[0]
    trains = again.instance.workload.is_training
    assert held[trains].min() > held[~trains].min()


@needs_torch
def test_the_same_seed_gives_the_same_decisions() -> None:
    one, two = record(SMALL), record(SMALL)
    assert np.array_equal(one.instance.workload.kind, two.instance.workload.kind)
    assert np.array_equal(one.instance.workload.prompt_tokens, two.instance.workload.prompt_tokens)
    assert np.array_equal(one.actual.held_bytes, two.actual.held_bytes)


@needs_torch
def test_memory_is_what_the_tensors_take() -> None:
    import torch

    from experiments.recorder.watch import MemoryWatch

    given = torch.zeros(1000)
    with MemoryWatch() as watch:
        first = given + 1
        second = first * 2
        view = second[:10]
        del first
        given.add_(1)
    assert (watch.peak, watch.now) == (8000, 4000)
    del second
    assert watch.now == 4000
    del view
    assert watch.now == 0


@needs_torch
def test_training_lowers_the_loss_of_what_it_sees() -> None:
    import torch

    from experiments.recorder.stage import Shape, TorchStage, draw_rows

    rows = draw_rows([8], 2, 16, 0)
    shape = Shape(16, 2, 2, 16, 8)
    stages = [TorchStage(shape, s, 2, rows, [True], Processor(torch, 1), s) for s in range(2)]
    for stage in stages:
        for group in stage.optimizer.param_groups:
            group["lr"] = 0.01
    losses = []
    for _ in range(30):
        losses.append(float(stages[1].forward(0, stages[0].forward(0, None))))
        stages[0].backward(0, stages[1].backward(0, None))
        for stage in stages:
            stage.update()
    assert losses[-1] < 0.3 * losses[0]
