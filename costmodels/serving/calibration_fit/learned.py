"""What a fit learned, as frameworks have it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from costmodels.estimates import Floats
from costmodels.serving.calibration_fit.constants import (
    FACTORS,
    LEAST,
    MOE,
    MOST,
    NAMES,
    OfRuns,
    front_ms,
    predicted_ms,
)
from costmodels.serving.calibration_fit.effects import IN_EFFECT, KINDS, RELEASES, at_knots
from costmodels.serving.calibration_fit.fit import FittedEngines, PriorConstants, Progress, fifths, fit, held_out
from costmodels.serving.calibration_fit.intervals import (
    Residuals,
    added,
    at_load,
    front_spread,
    pooled,
    spreads_of,
    wider,
)
from costmodels.serving.calibration_fit.runs import MeasuredRuns, Texts, day_of
from costmodels.serving.frameworks.calibration import (
    EFFECTS,
    LATENCIES,
    MODEL_KINDS,
    TREND_GOES_ON_DAYS,
    Calibration,
    Dated,
    Effect,
    Effects,
    HalfWidths,
    Spreads,
)

NEWEST_SHARE = 0.25
"""Of the runs of a framework, that are held out as later ones."""

USUAL_SHARE = np.array([0.5, 0.5, 0.5, 0.5])
"""Of the effects of the campaign with most runs, what a stranger is predicted with: half way between it and all
others."""

FEW = 500
"""Runs up to which every fifth is held out in turn, too."""

FEWEST_OF_KIND = 40
"""Runs held out from which a kind of model says what the unknown adds for it."""

UNSAMPLED_US = 2.0
"""Sampling of a sequence where no run of the framework samples: 1.6 to 1.9 µs of a kernel that draws by exponential
noise (H200, vocabulary of 128k to 152k, own measurement 2026-11-26)."""


@dataclass(frozen=True)
class Learned:
    """``calibrations`` by framework; ``residuals`` log(measured ÷ predicted) [4, n] of ``runs`` by what was held out
    (``nothing``: in sample, as strangers are told)."""

    calibrations: dict[str, Calibration]
    runs: MeasuredRuns
    residuals: dict[str, Floats]


def learn(
    runs: MeasuredRuns,
    prior: PriorConstants,
    known: Mapping[str, Calibration],
    said: tuple[str, str],
    progress: Progress,
) -> Learned:
    """Fits, and holds out models, GPU types, campaigns and the newest runs of each framework.

    Args:
        known: the calibrations that stand so far, by framework.
        said: what the constants were fitted on, and the day.
    """
    fitted, linear = fit(runs, prior, progress)
    told = as_told(fitted, runs)
    predicted = predicted_ms(told, runs)
    shares = front_ms(told, runs, predicted[2]) / predicted[:2]
    residuals = {"nothing": np.log(runs.measured / predicted)}
    for name, folds in folds_of(runs).items():
        progress(f"holding out {name}: {len(folds)} folds")
        logs = np.full(runs.measured.shape, np.nan)
        for each in held_out(runs, prior, linear, folds, fitted).values():
            logs = np.where(np.isfinite(each), each, logs)
        residuals[name] = logs
    calibrations = {
        name: _calibration(fitted, runs, residuals, name, known[name]).model_copy(
            update={"fitted_on": said[0], "date": said[1]}
        )
        for name in fitted.frameworks
    }
    calibrations = {
        name: _with_front(each, runs, residuals["nothing"], shares, name) for name, each in calibrations.items()
    }
    return Learned(calibrations, runs, residuals)


def _with_front(known: Calibration, runs: MeasuredRuns, logs: Floats, shares: Floats, name: str) -> Calibration:
    """With what runs say of the front end, of whose TTFT it is ``shares`` [2, n] (means, medians)."""
    mine = np.flatnonzero(runs.framework == name)
    factors = known.of_kind.get("tpot", (1.0,) * len(MODEL_KINDS))
    kinds = model_kinds(runs)[mine]
    steps = [
        known.on_gpus[str(runs.gpu[i])].tpot.scaled(factors[MODEL_KINDS.index(kind)])
        for i, kind in zip(mine, kinds, strict=True)
    ]
    ends = np.array([each.low for each in steps]), np.array([each.high for each in steps])
    means = np.isfinite(logs[0, mine])
    errors, share = (np.where(means, each[0, mine], each[1, mine]) for each in (logs, shares))
    groups = np.array([f"{m} {g}" for m, g in zip(runs.model[mine], runs.gpu[mine], strict=True)])
    found = front_spread(errors, share, ends, groups)
    return known if found is None else known.model_copy(update={"front": found})


def usual_campaign(runs: MeasuredRuns, framework: str) -> tuple[str, Floats]:
    """(Key of the campaign with most runs of a framework, the share of its effects that strangers are told)."""
    campaigns = Counter(map(str, runs.campaign[runs.framework == framework]))
    share = np.ones(KINDS) if len(campaigns) == 1 else USUAL_SHARE
    return f"{framework} {campaigns.most_common(1)[0][0]}", share


def as_told(fitted: FittedEngines, runs: MeasuredRuns) -> OfRuns:
    """What strangers are told of the ``runs``: without the effects of the campaigns that they are of."""
    groups = fitted.groups
    campaign = np.array([name == "campaign" for name in groups.group])
    matrix = np.where(campaign, 0.0, groups.matrix)
    c = fitted.of(runs, replace(groups, matrix=matrix))
    effects = np.zeros((KINDS, len(runs)))
    for framework in fitted.frameworks:
        key, share = usual_campaign(runs, framework)
        at = [i for i in np.flatnonzero(campaign) if groups.key[i] == key]
        effects[:, runs.framework == framework] = (share * fitted.coefficients[:, at].sum(axis=1))[:, None]
    return OfRuns(c.values, *(each + by for each, by in zip(c.effects, effects, strict=True)))


def folds_of(runs: MeasuredRuns) -> dict[str, dict[str, NDArray[np.bool_]]]:
    """By what is held out, then by its name."""
    out: dict[str, dict[str, NDArray[np.bool_]]] = {}
    for name, label in (("model", runs.model), ("gpu", runs.gpu), ("campaign", runs.campaign)):
        keys = sorted(set(label))
        out[name] = {str(key): label == key for key in keys} if len(keys) > 1 else {}
    newest = np.zeros(len(runs), np.bool_)
    for framework in set(runs.framework):
        mine = (runs.framework == framework) & np.isfinite(runs.days)
        days = runs.days[mine]
        if len(starts := np.unique(days)[1:]):
            shares = [abs(float((days >= start).mean()) - NEWEST_SHARE) for start in starts]
            newest |= mine & (runs.days >= starts[int(np.argmin(shares))])
    out["date"] = {"newest": newest} if newest.any() else {}
    if len(runs) <= FEW:
        out["rows"] = {str(turn): held for turn, held in enumerate(fifths(runs))}
    return {name: folds for name, folds in out.items() if folds}


def residuals_of(logs: Floats, runs: MeasuredRuns, index: NDArray[np.bool_]) -> Residuals:
    """Of the runs ``index``; means go before medians."""
    ttft, tpot = (np.where(np.isfinite(logs[at]), logs[at], logs[at + 1]) for at in (0, 2))
    measured = [np.where(np.isfinite(runs.measured[at]), runs.measured[at], runs.measured[at + 1]) for at in (0, 2)]
    tokens = np.maximum(runs.load.mean_osl - 1, 0)
    whole = np.log(measured[0] + measured[1] * tokens) - np.log(
        measured[0] * np.exp(-ttft) + measured[1] * np.exp(-tpot) * tokens
    )
    groups = np.array([f"{m} {g}" for m, g in zip(runs.model, runs.gpu, strict=True)])
    errors = {"ttft": ttft, "tpot": tpot, "e2e": np.where(np.isfinite(whole), whole, np.nan)}
    return Residuals({name: values[index] for name, values in errors.items()}, groups[index])


def _calibration(
    fitted: FittedEngines, runs: MeasuredRuns, residuals: Mapping[str, Floats], name: str, known: Calibration
) -> Calibration:
    mine = runs.framework == name
    found: dict[str, float] = dict(
        zip(NAMES, np.clip(fitted.constants[fitted.frameworks.index(name)], LEAST, MOST).tolist(), strict=True)
    )

    def us(constant: str) -> float:
        return round(found[constant] * 1e3, 3)

    sampled = bool((mine & ~runs.greedy).any())
    return known.model_copy(
        update={
            "factors": {factor: round(float(np.exp(found[factor])), 4) for factor in FACTORS},
            "step_us": us("step"),
            "step_us_per_layer": us("step_per_layer"),
            "step_us_per_sequence": us("step_per_sequence"),
            "sampled_us_per_sequence": us("sampled") if sampled else UNSAMPLED_US,
            "block_experts_us_per_layer": us("block_experts") if (mine & runs.slow_blocks).any() else 0.0,
            "uneven_experts": round(found["uneven_experts"], 4),
            "slow_experts": round(found["slow_experts"], 4) if (mine & runs.slow_experts).any() else 0.0,
            "early_launch_us_per_layer": us("early_launch_per_layer") if (mine & runs.launched_early).any() else 0.0,
            "prompt_step_us": us("prompt_step"),
            "prompt_step_us_per_layer": us("prompt_step_per_layer"),
            "request_us": us("request"),
            "request_us_per_expert_layer": us("request_per_expert_layer")
            if (mine & (runs.launched > 0)).any()
            else 0.0,
            "request_us_per_token": us("request_per_token"),
            "request_us_per_concurrent": us("request_per_concurrent"),
            "first_us": us("first") if (mine & runs.compiled).any() else 0.0,
            "first_on_amd": round(found["first_on_amd"], 4),
            "request_steps": round(found["request_steps"], 4),
            "rank_steps": round(found["rank_steps"], 4) if (mine & (runs.ranks > 1)).any() else 0.0,
            "acceptance": round(found["acceptance"], 4),
            "effects": effects_of(fitted, runs, name, known.effects),
            **intervals_of(runs, residuals, name, known),
            "models": tuple(sorted(set(map(str, runs.model[mine])))),
            "rows": int(mine.sum()),
        }
    )


def intervals_of(
    runs: MeasuredRuns, residuals: Mapping[str, Floats], name: str, known: Calibration
) -> dict[str, object]:
    """What the ``residuals`` of a framework's runs say of its calibration's intervals, field by field."""
    mine = runs.framework == name
    otherwise = Spreads(ttft=known.ttft, tpot=known.tpot, e2e=known.e2e)
    late = np.isfinite(residuals["date"]).any(axis=0) if "date" in residuals else np.zeros(len(runs), np.bool_)

    def told_of(index: NDArray[np.bool_]) -> Residuals:
        found = residuals_of(residuals["nothing"], runs, index)
        return found.joined(residuals_of(residuals["date"], runs, index & late)) if "date" in residuals else found

    of_all = spreads_of(told_of(mine), otherwise)
    on = {str(gpu): pooled(told_of(mine & (runs.gpu == gpu)), of_all) for gpu in sorted(set(runs.gpu[mine]))}
    rows = np.flatnonzero(mine)
    users = runs.load.concurrency[rows].astype(np.float64)
    told = residuals_of(residuals["nothing"], runs, mine)
    kind = np.array([MODEL_KINDS.index(each) for each in model_kinds(runs)[rows]])
    loads, kinds = {}, {}
    for latency in LATENCIES:
        if told.count(latency):
            usual = [getattr(on[str(runs.gpu[i])], latency) for i in rows]
            by = wider(told.errors[latency], usual, told.groups, kind, len(MODEL_KINDS))
            ends = [each.scaled(by[k]) for each, k in zip(usual, kind, strict=True)]
            kinds[latency] = by
            loads[latency] = at_load(told.errors[latency], ends, told.groups, users)
    return {
        **{latency: getattr(of_all, latency) for latency in LATENCIES},
        "on_gpus": on,
        "at_load": loads,
        "of_kind": kinds,
        **{
            f"unknown_{what}": added(residuals_of(residuals[what], runs, mine), of_all)
            for what in ("model", "gpu")
            if what in residuals
        },
        "unknown_of_kind": _unknown(runs, residuals, mine, of_all, kinds),
    }


def model_kinds(runs: MeasuredRuns) -> Texts:
    """Of each run's model, [n]: of :data:`MODEL_KINDS`."""
    return np.where((runs.parts_ms[:, :, MOE] > 0).any(axis=1), "experts", "dense").astype(object)


def _unknown(
    runs: MeasuredRuns,
    residuals: Mapping[str, Floats],
    mine: NDArray[np.bool_],
    of_all: Spreads,
    kinds: Mapping[str, tuple[float, ...]],
) -> dict[str, dict[str, HalfWidths]]:
    """By kind of model, what a GPU type or a model without runs adds; of kinds with enough runs held out."""
    out: dict[str, dict[str, HalfWidths]] = {}
    of = model_kinds(runs)
    for at, kind in enumerate(MODEL_KINDS):
        factors = {latency: by[at] for latency, by in kinds.items()}
        usual = Spreads(**{name: getattr(of_all, name).scaled(factors.get(name, 1.0)) for name in LATENCIES})
        for what in ("model", "gpu"):
            if what not in residuals:
                continue
            held = residuals_of(residuals[what], runs, mine & (of == kind))
            if min(held.count(name) for name in LATENCIES) >= FEWEST_OF_KIND:
                out.setdefault(kind, {})[what] = added(held, usual)
    return out


def effects_of(fitted: FittedEngines, runs: MeasuredRuns, framework: str, known: Effects) -> Effects:
    """Of one framework: what its GPU types share with their vendor's and their own, one sum each, beside what is known.
    Where there is one campaign, its effect counts: whoever calibrates on own runs measures as before."""
    groups = fitted.groups
    usual, share = usual_campaign(runs, framework)

    def of(group: str, key: str) -> Floats:
        at = [i for i in range(len(groups)) if (groups.group[i], groups.key[i]) == (group, key)]
        return np.asarray(fitted.coefficients[:, at].sum(axis=1))

    def effect(values: Floats) -> Effect:
        return Effect(**{name: round(float(value), 4) for name, value in zip(EFFECTS, IN_EFFECT * values, strict=True)})

    vendors, generations, gpus = dict(known.vendors), dict(known.generations), dict(known.gpus)
    releases = dict(known.releases)
    still = known.model_copy(update={"trends": {}})
    if "amd" in groups.key:
        vendors["amd"] = vendors.get("amd", Effect()) + effect(of("vendor", "amd"))
    for generation in sorted(set(map(str, runs.generation))):
        on = f"{framework} {generation}"
        learned = of("framework generation", on) + of("amd engine", on)
        generations[generation] = generations.get(generation, Effect()) + effect(
            learned + share * of("campaign", usual)
        )
    for gpu in sorted(set(map(str, runs.gpu))):
        first = int(np.flatnonzero(runs.gpu == gpu)[0])
        generation, vendor, on = str(runs.generation[first]), str(runs.vendor[first]), f"{framework} {gpu}"
        own = of("framework generation", f"{framework} {generation}") + of("framework gpu", on)
        own = own + of("amd engine", f"{framework} {generation}")
        before = still.on_type(gpu, generation, vendor)
        gpus[gpu] = before + effect(of("vendor", vendor) + own + share * of("campaign", usual))
        released = generation if vendor == "amd" else gpu
        at = np.array(
            [
                i
                for i, (group, key) in enumerate(zip(groups.group, groups.key, strict=True))
                if group in RELEASES and key == f"{framework} {released}"
            ],
            np.int64,
        )
        if len(at):
            values = np.stack([at_knots(each[at], groups.day[at]) for each in fitted.coefficients])
            releases[released] = tuple(
                Dated(day=day, effect=still.released((gpu, generation), day) + effect(values[:, i]))
                for i, day in enumerate(map(day_of, groups.day[at]))
            )
    models = dict(known.models)
    for kind in sorted(set(map(str, runs.kind[runs.framework == framework]))):
        known_as, _, attention = kind.rpartition(" ")
        alike, across = of("framework attention", f"{framework} {attention}"), of("model", kind.partition(" ")[0])
        here = alike + across + of("framework model", f"{framework} {kind}")
        models[known_as] = known.of_model(kind) + effect(here)
        if alike.any():
            models[attention] = known.models.get(attention, Effect()) + effect(alike)
    for shape, attention in sorted({(kind.split(" ")[0], kind.split(" ")[2]) for kind in map(str, runs.kind)}):
        alike = of("framework attention", f"{framework} {attention}")
        base = known.models.get(shape, known.models.get(attention, Effect()))
        models[shape] = base + effect(alike + of("model", shape))
    on_amd = (runs.framework == framework) & (runs.vendor == "amd")
    shapes = {kind.partition(" ")[0] for kind in map(str, runs.kind[on_amd])}
    trends, until = dict(known.trends), known.trend_until
    dated = (runs.framework == framework) & np.isfinite(runs.days)
    if "trend" in groups.group and dated.any():
        for vendor in sorted(set(map(str, runs.vendor))):
            own_trend = effect(of("trend", "") + of("vendor trend", vendor))
            trends[vendor] = trends.get(vendor, Effect()) + own_trend
        until = day_of(float(runs.days[dated].max()) + TREND_GOES_ON_DAYS)
    return Effects(
        vendors=vendors,
        generations=generations,
        gpus=gpus,
        releases=releases,
        models=models,
        layers_of=tuple(sorted({*known.layers_of, *shapes})),
        trends=trends,
        trend_until=until,
    )
