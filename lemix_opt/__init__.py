"""The core: cluster, workload, costs, instance, schedule, validation, execution and metrics."""

from lemix_opt.cluster import Cluster
from lemix_opt.costs import Costs
from lemix_opt.errors import LemixError
from lemix_opt.instance import Instance
from lemix_opt.objective import Objective
from lemix_opt.policy import Assign, BatchObserved, Defer, Event, Policy
from lemix_opt.result import Result
from lemix_opt.schedule import Operations, Schedule
from lemix_opt.table import Table
from lemix_opt.trace import Trace
from lemix_opt.workload import Workload

__all__ = [
    "Assign",
    "BatchObserved",
    "Cluster",
    "Costs",
    "Defer",
    "Event",
    "Instance",
    "LemixError",
    "Objective",
    "Operations",
    "Policy",
    "Result",
    "Schedule",
    "Table",
    "Trace",
    "Workload",
]
