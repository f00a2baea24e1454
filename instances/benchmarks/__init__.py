"""Literature benchmarks, an own train+serve suite, and the best bounds known for them."""

from instances.benchmarks.benchmark import Benchmark, BestKnown, Mark
from instances.benchmarks.best_known import BestTable
from instances.benchmarks.suites import SUITES, suite

__all__ = ["SUITES", "Benchmark", "BestKnown", "BestTable", "Mark", "suite"]
