"""Prints what online correction brings, as docs/predictors.md quotes it, from the measured tables.

Run as ``LEMIX_DATA=... python tests/benchmarks/correction_figures.py [errors schedules biases]``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from experiments.operation_profiles import OperationProfile, read_operations
from lemix_opt import Cluster, Costs, Instance, Objective, Schedule, Workload, simulate
from lemix_opt.correction import OnlineCorrection
from lemix_opt.evaluation import objective_value, response_s
from lemix_opt.percentile import percentile
from predictors.operation_model import OperationTimeModel
from predictors.operations import KINDS, column
from predictors.transfer import online_errors
from solvers.registry import POLICIES

TREES = 30
SEEN = (1, 5, 20, 100)
ORDERS = 5
SEEDS = 20
FORWARD, BACKWARD = KINDS.index("forward"), KINDS.index("backward")


def left_out() -> Iterator[tuple[str, OperationProfile, np.ndarray]]:
    """Yield what is left out of which table: a GPU type, or a model."""
    table = read_operations("splitwise-prefill")
    for gpu in ("h100-80gb", "h100-80gb-pcap"):
        # Both kinds of H100 stay out of the fit, one at a time is predicted.
        part = _part(table, np.char.startswith(table.gpus, "a100") | (table.gpus == gpu))
        yield f"splitwise, A100 -> {gpu}", part, part.gpus != gpu
    table = read_operations("sailor-layer")
    table = _part(table, column(table.X, "kind") != KINDS.index("update"))
    for gpu in np.unique(table.gpus):
        yield f"sailor, {gpu} left out", table, table.gpus != gpu
    for name in ("muxserve-prefill", "muxserve-decode"):
        table = read_operations(name)
        for model in np.unique(table.models):
            yield f"{name}, {model} left out", table, table.models != model


def _part(table: OperationProfile, rows: np.ndarray) -> OperationProfile:
    return replace(
        table,
        X=table.X[rows],
        seconds=table.seconds[rows],
        models=table.models[rows],
        gpus=table.gpus[rows],
    )


def errors() -> None:
    for what, table, known in left_out():
        model = OperationTimeModel(trees=TREES, calibrate=False)
        model.fit(table.X[known], table.seconds[known])
        held = np.flatnonzero(~known)
        told, took = model.predict(table.X[held]), table.seconds[held]
        kinds = column(table.X, "kind")[held].astype(int).tolist()
        groups = list(zip(table.gpus[held], kinds, table.groups[held], strict=True))
        runs = []
        for seed in range(ORDERS):
            order = np.random.default_rng(seed).permutation(held.size)
            asked = [groups[at] for at in order]
            runs.append(online_errors(told[order], took[order], asked, SEEN, OnlineCorrection()))
        before = 100 * float(np.mean(np.abs(told / took - 1)))
        by_seen = ", ".join(
            f"{mean:.1f} ({least:.1f} to {most:.1f})"
            for mean, least, most in zip(
                np.mean(runs, axis=0), np.min(runs, axis=0), np.max(runs, axis=0), strict=True
            )
        )
        print(f"{what}: {held.size} rows, {before:.1f} % before; {by_seen}", flush=True)


@dataclass(frozen=True)
class Mixed:
    """Half of a cluster is of a GPU type that the predictions were not fitted on."""

    model: str
    known: str
    new: str
    layers: int = 12
    stages: int = 2
    nodes: int = 4
    tasks: int = 400
    training_share: float = 0.3
    used: float = 0.7
    """Share of the rate of tasks that both halves can serve together."""

    def problem(self, seed: int, table: OperationProfile, predicted: np.ndarray) -> tuple:
        """Return instance with predicted costs, and the measured ones."""
        rng = np.random.default_rng(seed)
        whole = (table.models == self.model) & (column(table.X, "tensor") == 1)
        at = {
            (gpu, kind): {
                int(column(table.X, "rows")[row]): row
                for row in np.flatnonzero(
                    whole & (table.gpus == gpu) & (column(table.X, "kind") == kind)
                )
            }
            for gpu in (self.known, self.new)
            for kind in (FORWARD, BACKWARD)
        }
        batches = sorted(set.intersection(*(set(rows) for rows in at.values())))
        batch = rng.choice(batches, self.tasks)
        kind = (rng.random(self.tasks) < self.training_share).astype(int)

        def costs(seconds: np.ndarray) -> Costs:
            def part(operation: int) -> np.ndarray:
                each = np.array(
                    [
                        [seconds[at[gpu, operation][int(rows)]] for rows in batch]
                        for gpu in (self.known, self.new)
                    ]
                )
                return np.repeat(each[:, :, None], self.stages, axis=2) * self.layers / self.stages

            return Costs(part(FORWARD), part(BACKWARD) * kind[None, :, None], 0.0, 0.0)

        actual = costs(table.seconds)
        work_s = (actual.forward_s + actual.backward_s).mean(axis=2)
        # Rates of both halves add up.
        per_task_s = 1 / np.mean(1 / work_s.mean(axis=1)) / self.nodes
        release_s = np.cumsum(rng.exponential(per_task_s / self.used, self.tasks))
        unit = float(actual.forward_s[:, kind == 0].sum(axis=2).mean())
        workload = Workload(
            kind, release_s, batch, 2048, slo_s=np.where(kind == 0, 3 * unit, np.inf)
        )
        cluster = Cluster(self.nodes, self.stages, 1.0, [0, 1] * (self.nodes // 2))
        instance = Instance(
            cluster, workload, costs(predicted), release_mode="open", slo_unit_s=unit
        )
        return instance, actual


OBJECTIVE = Objective(inference_response=4, training_response=1)


def measured(instance: Instance, actual: Costs, schedule: Schedule) -> np.ndarray:
    true = instance.with_costs(actual)
    requests = response_s(true, schedule)[instance.workload.is_inference]
    value = objective_value(true, schedule, OBJECTIVE)
    return np.array(
        [
            value,
            requests.mean(),
            percentile(requests, 95),
            float(np.mean(requests <= instance.workload.slo_s[instance.workload.is_inference])),
        ]
    )


def schedules() -> None:
    table = read_operations("sailor-layer")
    for new in ("rtx-3090", "titan-rtx", "gh200-96gb", "v100-16gb"):
        known = table.gpus != new
        model = OperationTimeModel(trees=TREES, calibrate=False)
        predicted = model.fit(table.X[known], table.seconds[known]).predict(table.X)
        for policy in ("lemix", "shortest-response", "least-work-left"):
            compared(Mixed("opt-350m", "a100-40gb", new), policy, table, predicted, "data sheet")


def biases() -> None:
    """Measured times, and predictions of the new type that are off by an invented factor."""
    table = read_operations("sailor-layer")
    case = Mixed("opt-350m", "a100-40gb", "titan-rtx")
    for factor in (1 / 3, 1 / 2, 2.0, 3.0):
        predicted = table.seconds * np.where(table.gpus == case.new, factor, 1.0)
        for policy in ("lemix", "shortest-response", "least-work-left"):
            compared(case, policy, table, predicted, f"times {factor:.2f}")


def compared(
    case: Mixed, policy: str, table: OperationProfile, predicted: np.ndarray, bias: str
) -> None:
    """Print the change against true costs: mean over seeds, half width of its 95 % interval."""
    names = (policy, f"corrected:{policy}")
    changes: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for seed in range(SEEDS):
        instance, actual = case.problem(seed, table, predicted)
        true = instance.with_costs(actual)
        informed = measured(instance, actual, simulate(true, POLICIES.create(policy)))
        for name in names:
            run = simulate(instance, POLICIES.create(name), actual=actual)
            found = measured(instance, actual, run)
            changes[name].append(np.append(found[:3] / informed[:3] - 1, found[3] - informed[3]))
    for name in names:
        rows = 100 * np.array(changes[name])
        half = 1.96 * rows.std(axis=0, ddof=1) / SEEDS**0.5
        text = ", ".join(
            f"{what} {m:+.1f} ± {h:.1f}"
            for what, m, h in zip(
                ("objective [%]", "mean response [%]", "p95 [%]", "SLO attainment [points]"),
                rows.mean(axis=0),
                half,
                strict=True,
            )
        )
        print(f"{case.known} + {case.new} by {bias}, {name}: {text}", flush=True)


def main() -> None:
    chosen = sys.argv[1:] or ["errors", "schedules", "biases"]
    for part in chosen:
        {"errors": errors, "schedules": schedules, "biases": biases}[part]()


if __name__ == "__main__":
    main()
