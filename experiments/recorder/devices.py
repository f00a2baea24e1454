"""Clocks and memory of what stages run on: processors and CUDA GPUs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from lemix_opt.errors import FieldError, MissingExtraError


def torch_or_error() -> Any:
    """Return PyTorch, or raise `MissingExtraError` that says how to get it."""
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError(
            "recording needs PyTorch", hint="pip install 'lemix-opt[record]'"
        ) from error
    return torch


class Processor:
    """The host's processor: work is done when its call returns.

    Parameters
    ----------
    torch : module
        PyTorch.
    threads : int
        Threads of one operation.
    """

    how_timed = "perf_counter_ns around every call"
    how_measured = (
        "storages that PyTorch's operators make and free, without scratch memory inside them, in "
        "untimed runs of the same shapes"
    )

    def __init__(self, torch: Any, threads: int) -> None:
        self.torch, self.threads, self.name = torch, threads, "cpu"

    def enter(self) -> None:
        """Limit the threads; OpenMP keeps this setting by calling thread."""
        self.torch.set_num_threads(self.threads)

    def scope(self) -> AbstractContextManager[Any]:
        """Return the context that work runs in."""
        return nullcontext()

    def timed(self, work: Callable[[], Any]) -> tuple[Any, int, int]:
        """Return the result of some work, with its start and end in nanoseconds."""
        start_ns = time.perf_counter_ns()
        made = work()
        return made, start_ns, time.perf_counter_ns()

    def measured(self, work: Callable[[], Any]) -> tuple[Any, int, int]:
        """Return the result of some work, the most bytes it took at once, and those it kept."""
        from experiments.recorder.watch import MemoryWatch

        with MemoryWatch() as watch:
            made = work()
            return made, watch.peak, watch.now

    def memory_bytes(self) -> int:
        """Memory of the machine."""
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


class Gpu:
    """A CUDA device: work is queued on a stream of its own, and waited for.

    Parameters
    ----------
    torch : module
        PyTorch.
    index : int
        Number of the device.
    """

    how_timed = (
        "CUDA events around every operation, placed on perf_counter_ns by a wait for its end"
    )
    how_measured = "torch.cuda.max_memory_allocated, in untimed runs of the same shapes"

    def __init__(self, torch: Any, index: int) -> None:
        self.torch, self.index, self.name = torch, index, f"cuda:{index}"
        self.stream = torch.cuda.Stream(device=index)

    def enter(self) -> None:
        """Make the device that of the thread."""
        self.torch.cuda.set_device(self.index)

    def scope(self) -> AbstractContextManager[Any]:
        """Return the context that work runs in: the stage's own stream."""
        stream: AbstractContextManager[Any] = self.torch.cuda.stream(self.stream)
        return stream

    def timed(self, work: Callable[[], Any]) -> tuple[Any, int, int]:
        """Return the result of some work, with its start and end in nanoseconds.

        The end is when the host has seen the last event; the start lies the events' distance
        before it, but not before the call.
        """
        cuda = self.torch.cuda
        begin, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
        called_ns = time.perf_counter_ns()
        begin.record(self.stream)
        made = work()
        end.record(self.stream)
        end.synchronize()
        end_ns = time.perf_counter_ns()
        return made, max(called_ns, end_ns - round(begin.elapsed_time(end) * 1e6)), end_ns

    def measured(self, work: Callable[[], Any]) -> tuple[Any, int, int]:
        """Return the result of some work, the most bytes it took at once, and those it kept."""
        cuda = self.torch.cuda
        cuda.synchronize(self.index)
        cuda.reset_peak_memory_stats(self.index)
        before = cuda.memory_allocated(self.index)
        made = work()
        cuda.synchronize(self.index)
        peak = cuda.max_memory_allocated(self.index) - before
        return made, peak, max(cuda.memory_allocated(self.index) - before, 0)

    def memory_bytes(self) -> int:
        """Memory of the device."""
        return int(self.torch.cuda.get_device_properties(self.index).total_memory)


Device = Processor | Gpu


def devices_for(torch: Any, kind: str, nodes: int, stages: int, threads: int) -> list[list[Device]]:
    """Return the device of every stage of every node.

    Parameters
    ----------
    torch : module
        PyTorch.
    kind : {"auto", "cpu", "cuda"}
        ``auto`` takes GPUs where there are any.
    nodes, stages : int
        Stages take the GPUs in turn, so that each has one of its own where there are enough.
    threads : int
        Threads of one operation on a processor.

    Raises
    ------
    FieldError
        If there is no GPU but one is asked for.
    """
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "cuda" and not found:
        raise FieldError("'cuda', but PyTorch sees no GPU", where="device", expected="cpu or auto")
    if kind == "cpu" or not found:
        return [[Processor(torch, threads) for _ in range(stages)] for _ in range(nodes)]
    return [[Gpu(torch, (n * stages + s) % found) for s in range(stages)] for n in range(nodes)]


def processor_name() -> str:
    """Model of the processor, as Linux tells it; what Python knows elsewhere."""
    import platform

    place = Path("/proc/cpuinfo")
    lines = place.read_text(encoding="utf-8").splitlines() if place.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
