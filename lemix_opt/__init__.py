"""The core: cluster, workload, costs, instance, schedule, validation, execution and metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lemix_opt.cluster import Cluster
from lemix_opt.contention import Contention
from lemix_opt.cost_model import CostModel
from lemix_opt.costs import Costs
from lemix_opt.errors import LemixError
from lemix_opt.generated import Generated, Iterations
from lemix_opt.generation import Generation, IterationCosts
from lemix_opt.instance import Instance
from lemix_opt.lazy import later
from lemix_opt.memory_wait import MemoryWait
from lemix_opt.objective import Objective
from lemix_opt.policy import Assign, BatchObserved, Defer, Event, Policy
from lemix_opt.recording import Provenance, Recording
from lemix_opt.result import Result
from lemix_opt.schedule import Operations, Schedule
from lemix_opt.table import Table
from lemix_opt.trace import Trace
from lemix_opt.weight_sync import WeightSync
from lemix_opt.workload import Workload

if TYPE_CHECKING:
    from lemix_opt.engine import CompiledPolicy, simulate
    from lemix_opt.evaluation import Score, evaluate
    from lemix_opt.replaying import Outcome, replay
    from lemix_opt.validation import validate
    from lemix_opt.validation.violation import Violation

# Types load at once, what acts on them when it is first asked for: that keeps the import short.
_LATER = {
    "CompiledPolicy": "engine",
    "Outcome": "replaying",
    "Score": "evaluation",
    "Violation": "validation",
    "evaluate": "evaluation",
    "replay": "replaying",
    "simulate": "engine",
    "validate": "validation",
}

__all__ = [
    "Assign",
    "BatchObserved",
    "Cluster",
    "CompiledPolicy",
    "Contention",
    "CostModel",
    "Costs",
    "Defer",
    "Event",
    "Generated",
    "Generation",
    "Instance",
    "IterationCosts",
    "Iterations",
    "LemixError",
    "MemoryWait",
    "Objective",
    "Operations",
    "Outcome",
    "Policy",
    "Provenance",
    "Recording",
    "Result",
    "Schedule",
    "Score",
    "Table",
    "Trace",
    "Violation",
    "WeightSync",
    "Workload",
    "evaluate",
    "replay",
    "simulate",
    "validate",
]

__getattr__ = later(__name__, _LATER)
