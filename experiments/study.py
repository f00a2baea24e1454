"""From names to a problem: arrivals, fitted costs and actual costs of one study."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from experiments.beliefs import believe
from experiments.links import NO_HOP, links_of
from experiments.profiles import GPU_BYTES, PROFILES, read_profile
from experiments.synced import describe
from instances import generate, load, stretch
from instances.formats import named_file
from lemix_opt.checks import FloatArray, floats
from lemix_opt.errors import FieldError, UnknownNameError, excerpt, unknown
from lemix_opt.grid import ticks_up, to_seconds
from lemix_opt.instance import Instance
from lemix_opt.load import offered_load
from lemix_opt.objective import Objective
from lemix_opt.trace import Trace
from lemix_opt.workload import Workload

GENERATED = "poisson"
"""Name of generated arrivals, in place of a trace's."""

MOST_TASKS = 2_000_000
"""Tasks of one study; more do not fit beside their operations into a usual machine's memory."""

TRACES = ("azure_llm_2023_code", "azure_llm_2023_conv")


@dataclass(frozen=True)
class Study:
    """What is compared on.

    Parameters
    ----------
    requests : str
        A trace of `TRACES`, or ``poisson`` for generated arrivals and lengths.
    profile : str
        A measured profile, or the name of a packaged calibration, whose truth is synthetic.
    model : str
        Served model, as the profile names it; that of the calibration when empty.
    gpu : str, optional
        GPU type of the profile.
    tensor_parallel : int, default 1
        GPUs that one stage stands for; a calibration brings its own number.
    nodes, stages : int, default 4
        Size of the cluster.
    training_share : float, default 0.3
        Training tasks / all tasks.
    load : float, optional
        Load, see `lemix_opt.load.offered_load`, that the gaps are multiplied to reach.
    rate_scale : float, optional
        Factor on the request rate, in place of `load`.
    tasks : int, default 400
        Tasks, training ones included.
    predictor : str, default "analytic"
        Time model fitted to the profile, out of `predictors.registry.PREDICTORS`.
    backward_ratio : float, default 1.99
        Backward / forward.
    hop : str, default "none"
        Link between neighbouring stages, ``within`` or ``across`` machines, or one for each two
        neighbours with commas, whose measured transfers give the hops; ``none`` for no hop.
    release_mode, gpu_order : str
        Rules of the instance.
    weight_sync_s : float, default 0
        Seconds of one weight synchronisation of ``separate`` over the whole run; 0 for none.
        `lemix_opt.weight_sync.published_seconds` knows the published ones.
    slo_units : float, default 5
        SLO of every request in SLO units.
    risk : float, optional
        Probability, in (0, 1), that a task may hold more than it is planned with. Bytes are then
        planned at that quantile and really drawn around their prediction, see
        `predictors.memory_spread`; they come true as predicted when omitted.
    time_quantile : float, optional
        Probability that an operation takes no longer than planned; the prediction when omitted.
    room : float, optional
        Memory of a GPU beside what is always there, in mean bytes a training task holds; that of
        its type when omitted. It is at least what the largest task needs.
    all_reduce_s : float, default 0
        Seconds of an all-reduce on every stage after each training task. LeMix has none; the
        tables say so when it is used.
    tick_s : float, default 0.001
        Grid in seconds that releases, predicted costs and SLOs are rounded up to.
    seed : int, default 0
        Seed of interleaving, lengths and actual costs.
    """

    requests: str = GENERATED
    profile: str = "llama-13b-a100"
    model: str = ""
    gpu: str | None = None
    tensor_parallel: int = 1
    nodes: int = 4
    stages: int = 4
    training_share: float = 0.3
    load: float | None = None
    rate_scale: float | None = None
    tasks: int = 400
    predictor: str = "analytic"
    backward_ratio: float = 1.99
    hop: str = NO_HOP
    release_mode: str = "async"
    gpu_order: str = "reserve"
    weight_sync_s: float = 0.0
    slo_units: float = 5.0
    risk: float | None = None
    time_quantile: float | None = None
    room: float | None = None
    all_reduce_s: float = 0.0
    tick_s: float = 0.001
    seed: int = 0


@dataclass(frozen=True)
class Problem:
    """A built study.

    Parameters
    ----------
    trace : Trace
        Instance with predicted and actual costs.
    seed : int
        Seed of all randomness.
    objective : Objective
        What schedules are compared by.
    head : dict of str to str
        What every table built on it must say.
    foot : tuple of str
        Counts and exceptions.
    weight_sync_s : float, default 0
        Seconds of one weight synchronisation of ``separate`` over the whole run.
    """

    trace: Trace
    seed: int
    objective: Objective
    head: dict[str, str]
    foot: tuple[str, ...]
    weight_sync_s: float = 0.0


@dataclass(frozen=True)
class _Source:
    """Fitted time model, whole-model actual seconds, and what is to be said about them."""

    time_model: Any
    actual_s: FloatArray
    shape: Any
    gpus: int
    memory_bytes: float
    truth: str
    provenance: str
    head: dict[str, str]
    foot: tuple[str, ...]


def build(study: Study) -> Problem:
    """Read, generate, fit and assemble.

    Raises
    ------
    UnknownNameError
        For an unknown trace, profile, model, GPU type or predictor.
    FieldError
        If the study asks for what its sources cannot give.
    """
    if study.load is not None and study.rate_scale is not None:
        raise FieldError("both given", where="load, rate_scale", expected="one of them")
    if study.tasks > MOST_TASKS:
        raise FieldError(f"{study.tasks}", where="tasks", expected=f"at most {MOST_TASKS}")
    work, arrivals = _arrivals(study)
    if not work.is_inference.any():
        raise FieldError(
            f"{study.training_share:g} of {study.tasks} tasks",
            where="training_share",
            expected="a share that leaves at least one request to serve",
        )
    floats("weight_sync_s", study.weight_sync_s, (), minimum=0)
    source = _source(study, work)
    links = links_of(study.hop, study.stages)
    beliefs = believe(study, work, source, links)
    costs = beliefs.median
    reduce_s = float(floats("all_reduce_s", study.all_reduce_s, (), minimum=0))
    reduce_s = float(to_seconds(ticks_up(reduce_s, study.tick_s), study.tick_s))
    every_stage = np.full((1, study.stages), reduce_s)
    costs = replace(costs, all_reduce_s=every_stage)
    work, factor = _compressed(study, Instance(beliefs.cluster, work, costs))
    unit = float(costs.forward_s[0][work.is_inference].sum(axis=1).mean())
    slo_s = float(to_seconds(ticks_up(study.slo_units * unit, study.tick_s), study.tick_s))
    work = replace(work, slo_s=np.where(work.is_inference, slo_s, np.inf))
    # Load, SLO and objective do not depend on what is planned with, so that risks compare.
    instance = Instance(
        beliefs.cluster,
        work,
        replace(beliefs.planned, all_reduce_s=every_stage),
        release_mode=study.release_mode,
        gpu_order=study.gpu_order,
        tick_s=study.tick_s,
        slo_unit_s=unit,
    )
    from predictors.estimate import stage_costs
    from predictors.stages import layers_by_stage

    layers = layers_by_stage(source.shape, study.stages)
    actual = stage_costs(
        source.actual_s,
        work.is_training,
        layers=layers,
        backward_ratio=study.backward_ratio,
        held=beliefs.held_bytes,
        resident=costs.resident_bytes[0],
        hop_s=links.hop_s(work, source.shape),
    )
    actual = replace(actual, all_reduce_s=every_stage)
    predicted = instance.with_costs(costs)
    objective = slo_objective(predicted)
    gpus = f"{source.gpus} GPUs" if source.gpus > 1 else "one GPU"
    head = {
        "truth": f"{source.truth}: {source.provenance}",
        "arrivals": arrivals,
        **source.head,
        "cluster": f"{study.nodes} nodes x {study.stages} stages, each stage {gpus}",
        "load": f"{offered_load(predicted):.3f}, gaps multiplied by {factor:.4g}",
        "training": f"{work.is_training.mean():.3f} of {work.tasks} tasks, {study.release_mode}",
        "SLO": f"{study.slo_units:g} units of {unit:.4f} s (predicted) = {slo_s:.3f} s",
        "memory": beliefs.said,
        "weight sync": describe(study.weight_sync_s, int(work.is_training.sum())),
        "hop": links.describe(work, source.shape, study.tick_s),
        "assumed": f"forward in proportion to layers, {', '.join(map(str, layers))} by stage; "
        f"backward = {study.backward_ratio:g} x forward (default: Sailor, LLAMA-3-8 on A100-40, "
        "3 points); no update",
        "grid": f"releases, predicted costs and SLO rounded up to {study.tick_s:g} s",
        "objective": f"4 x inference response + training response + "
        f"{objective.late_penalty_s:.4g} s per late request, in seconds",
        "seed": str(study.seed),
    }
    if study.time_quantile is not None:
        head["planned with"] = f"seconds that an operation keeps to with {study.time_quantile:g}"
    if reduce_s:
        head["outside LeMix"] = f"all-reduce of {reduce_s:g} s on every stage after each update"
    trace = Trace(instance, actual, source.truth, source.provenance)
    return Problem(trace, study.seed, objective, head, source.foot, study.weight_sync_s)


def slo_objective(instance: Instance) -> Objective:
    """4·Σ inference response + Σ training response + 20·FT·S s per late request.

    FT is the mean stage-0 forward of all tasks on node class 0.
    """
    mean = float(np.mean(instance.costs.forward_s[0, :, 0]))
    late = 20 * mean * instance.cluster.stages
    return Objective(inference_response=4, training_response=1, late_penalty_s=late)


def _no_trace(requests: str) -> UnknownNameError:
    """Return the error for an unknown trace; of a file it says what the file looks like."""
    known = (*TRACES, GENERATED)
    if not os.path.isfile(requests):
        return unknown("trace of requests", requests, known)
    found = named_file(requests)
    return UnknownNameError(
        f"{excerpt(requests)!r} is a file{f', {found}' if found else ''}",
        where="requests",
        expected=f"one of {', '.join(known)}",
    )


def _arrivals(study: Study) -> tuple[Workload, str]:
    share, seed = study.training_share, study.seed
    if study.requests == GENERATED:
        work = generate(
            study.tasks,
            training_share=share,
            rate_per_s=1.0,
            training_release="previous_request",
            seed=seed,
        )
        return work, "synthetic: Poisson, log-normal lengths with hh-rlhf's moments"
    if study.requests not in TRACES:
        raise _no_trace(study.requests)
    table = load(study.requests)
    work = stretch(
        table["arrival_s"],
        table["ContextTokens"],
        table["GeneratedTokens"],
        tasks=study.tasks,
        training_share=share,
        seed=seed,
        origin_ns=table.origin_ns,
    )
    return work, f"{study.requests} ({table.source}), first {int(work.is_inference.sum())} requests"


def _source(study: Study, work: Workload) -> _Source:
    from predictors.calibration import calibrations
    from predictors.model_shapes import model_shape

    rng = np.random.default_rng([study.seed, 1])
    known = calibrations()
    if study.profile in known:
        fitted = known[study.profile]
        # A calibration is of one model on given GPUs; what is asked for besides must agree.
        for name, asked, unasked, has in (
            ("model", study.model, "", fitted.model),
            ("gpu", study.gpu, None, fitted.gpu),
            ("tensor_parallel", study.tensor_parallel, 1, fitted.gpus),
            ("predictor", study.predictor, "analytic", "analytic"),
        ):
            if asked not in (unasked, has):
                raise FieldError(
                    f"{asked!r} with the calibration {fitted.name}",
                    where=name,
                    expected=f"{has!r}, or a measured profile",
                )
        time_model = fitted.time_model()
        queries = np.column_stack([work.batch, work.prompt_tokens]).astype(np.float64)
        drawn = np.exp(rng.normal(0.0, fitted.residual_std, work.tasks))
        errors = ", ".join(f"{k} {v:g} %" for k, v in fitted.mape_pct.items())
        return _Source(
            time_model,
            np.asarray(time_model.predict(queries) * drawn),
            model_shape(fitted.model),
            fitted.gpus,
            fitted.gpus * GPU_BYTES[fitted.gpu],
            "synthetic",
            f"prediction x log-normal residual of {100 * fitted.residual_std:.1f} %",
            {"predicted": f"calibration {fitted.name} ({fitted.source}); held-out error {errors}"},
            (_beyond(work, fitted.max_length, fitted.max_tokens),),
        )
    if study.profile not in PROFILES:
        raise unknown("profile", study.profile, (*PROFILES, *known))
    return _measured(study, work, rng)


def _measured(study: Study, work: Workload, rng: np.random.Generator) -> _Source:
    from predictors.measured import LABELS
    from predictors.model_shapes import model_shape
    from predictors.registry import PREDICTORS

    profile = read_profile(study.profile, study.model, study.gpu, study.tensor_parallel)
    points, seconds = profile.points
    time_model = PREDICTORS.create(study.predictor).fit(points, seconds)
    measured = profile.measured
    actual, label = measured.at(work.batch, work.prompt_tokens)
    spread = measured.spread
    said = "none measured" if spread is None else f"{100 * spread:.2f} % as its repeats"
    foot = [f"{int(np.sum(label == i))} tasks {name}" for i, name in enumerate(LABELS)]
    foot.append(_beyond(work, float(np.max(points[:, 1])), float(np.max(np.prod(points, axis=1)))))
    foot.append(
        f"{measured.missing} runs missing in the profile, {measured.implausible} left out because "
        "a batch of fewer tokens took longer"
    )
    name = f"{profile.name}, {profile.model}, {profile.gpus} x {profile.gpu}"
    return _Source(
        time_model,
        measured.draw(actual, rng),
        model_shape(profile.model),
        profile.gpus,
        profile.memory_bytes,
        "profile",
        f"{name}; interpolated in tokens; spread {said}",
        {
            "predicted": f"{study.predictor} model on {len(seconds)} runs, relative spread on "
            f"held-out points {100 * time_model.residual_std_:.1f} %"
        },
        tuple(foot),
    )


def _beyond(work: Workload, longest: float, most: float) -> str:
    far = (work.prompt_tokens > longest) | (work.batch * work.prompt_tokens > most)
    return (
        f"{int(far.sum())} tasks predicted beyond the fitted range of {int(longest)} tokens a row, "
        f"{int(most)} in all"
    )


def _compressed(study: Study, instance: Instance) -> tuple[Workload, float]:
    """Multiply the gaps so that the load, or the rate, is as asked; return the factor too."""
    work, factor = instance.workload, 1.0
    if study.load is not None:
        # Work stays and the span grows with the gaps, so that the load goes with 1 / factor.
        factor = offered_load(instance) / float(floats("load", study.load, (), above=0))
    elif study.rate_scale is not None:
        factor = 1 / float(floats("rate_scale", study.rate_scale, (), above=0))
    release_s = to_seconds(ticks_up(work.release_s * factor, study.tick_s), study.tick_s)
    return replace(work, release_s=release_s), factor
