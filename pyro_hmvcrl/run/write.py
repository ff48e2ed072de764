"""What a run folder is filled with: weights, posterior, factors, graph, and all figures about the fit."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.func import functional_call

from pyro_hmvcrl import __version__
from pyro_hmvcrl.data.dataset import CHANNELS, Dataset
from pyro_hmvcrl.data.periods import moment_of
from pyro_hmvcrl.evidence.identifiability import IdentifiabilityReport
from pyro_hmvcrl.evidence.observed import observed_figures
from pyro_hmvcrl.evidence.predictive import Counts
from pyro_hmvcrl.evidence.value import agreement, search_probability
from pyro_hmvcrl.inference.checkpoints import save_tensors
from pyro_hmvcrl.inference.scores import Values
from pyro_hmvcrl.inference.settings import Settings
from pyro_hmvcrl.inference.svi import Fit, tensors_of
from pyro_hmvcrl.run.judge import Truth, as_numpy, evaluate, guide_quality
from pyro_hmvcrl.run.labels import label_of
from pyro_hmvcrl.run.run import Array, Run
from pyro_hmvcrl.run.selecting import Selection
from pyro_hmvcrl.story.history import LOOKS_AT
from pyro_hmvcrl.story.model import HMVCRL


def write_run(
    run: Run,
    found: Fit,
    dataset: Dataset,
    truth: Truth | None,
    folder: Path,
    selection: Selection | None = None,
) -> None:
    """Fill a run folder."""
    identified = evaluate(found, dataset, truth)
    evidence = run.evidence(dataset)
    factors = run.encode(dataset, evidence)
    edges = run.edges(factors)
    factors["held_out"] = found.held_out
    if truth is not None:
        factors = factors.join(_matched_truth(factors, truth, identified))
    names = [*dataset.exposure_covariates, *dataset.preference_covariates]
    (folder / "config.json").write_text(json.dumps(run.config, indent=2))
    save_tensors(folder / "model.safetensors", run.guide.state_dict(), {"version": __version__})
    save_tensors(folder / "posterior.safetensors", run.posterior.to_tensors(), {"version": __version__})
    if run.outcome_names:
        of_outcomes = run.outcomes.to_tensors()
        save_tensors(folder / "outcomes.safetensors", of_outcomes, {"version": __version__})
    save_tensors(folder / "experts.safetensors", evidence._asdict(), {"version": __version__})
    found.history.to_csv(folder / "training.csv", index=False)
    factors.to_parquet(folder / "factors.parquet", index=False)
    dataset.users[["user_id", *names]].to_parquet(folder / "covariates.parquet", index=False)
    activity_of(dataset).to_parquet(folder / "activity.parquet", index=False)
    edges.to_csv(folder / "graph.csv", index=False)
    until = dataset.covariates_until
    report = {
        "remarks": list(dataset.remarks),
        "covariates_until": None if until is None else moment_of(until),
        "identifiability": identified.to_dict(),
        "restarts": [
            {"restart": r, "selected": r == found.selected}
            | {"bound": start.bound, "held_out_bound": start.held_out_bound}
            for r, start in enumerate(found.restarts)
        ],
        "scoring": found.scoring,
        "information": {block: float(ratio) for block, ratio in run.posterior.information.items()},
        "readiness": run.model.readiness_scale(run.coefficients).item(),
        "pareto_k": guide_quality(found, dataset, run.config["settings"]["seed"]),
        "held_out_bound": {"mean": found.bound[0], "standard_error": found.bound[1]},
        "graph": edges.to_dict("records"),
        "mechanisms": {channel: _mechanism(run, channel) for channel in CHANNELS},
        "factor_categories": _factor_categories(run, factors),
        "history": _history(run),
        "predictive": run.predictive(dataset),
        "selection": None if selection is None else selection.to_dict(),
        "observed": _observed(dataset),
    }
    if run.outcome_names:
        report["value"] = _value(run, found, dataset)
    (folder / "report.json").write_text(json.dumps(report, indent=2, allow_nan=False))


def activity_of(dataset: Dataset) -> pd.DataFrame:
    """How active each user is: events of each surface in each period, and what regressions of the logs need.

    `engaged` is the number of what was engaged with, `aligned` that of pairs of a shown and a searched item that are of
    one category.  Of each further outcome there is the number of what it holds of (``outcome_liked``).
    """
    columns: dict[str, Any] = {"user_id": dataset.user_id}
    names = {"searched": "search", "suggested": "suggested", "shown": "exposure"}
    for name, surface in names.items():
        if surface in dataset.counts:
            n_categories, counts = len(dataset.categories), dataset.counts[surface]
            for t in range(dataset.periods.number):
                own = counts[:, t * n_categories : (t + 1) * n_categories]
                columns[f"{name}_{t + 1}"] = np.asarray(own.sum(1)).ravel()
    columns["engaged"] = np.asarray(dataset.counts["engagement"].sum(1)).ravel()
    columns["aligned"] = (dataset.exposure * dataset.search).sum(1)
    for name, of in dataset.outcomes.items():
        columns[f"outcome_{name}"] = np.asarray(of.sum(1)).ravel()
    return pd.DataFrame(columns)


def _observed(dataset: Dataset) -> dict[str, dict[str, list[float]]]:
    """What the logs have, against which logs of later can be held: shares by category, engagement and alignment."""
    search, exposure, engagement = (
        of.astype(np.float64) for of in (dataset.search, dataset.exposure, dataset.engagement)
    )
    counts = Counts(search, exposure, engagement)
    found = observed_figures(counts).items()
    return {name: {"value": of.value.tolist(), "se": of.se.tolist()} for name, of in found}


def _value(run: Run, found: Fit, dataset: Dataset) -> dict[str, dict[str, Any]]:
    """Does what held-out users look for agree with each outcome, engagement among them?"""
    rows = np.flatnonzero(found.held_out)
    logs = tensors_of(dataset, run.standardisation, run.model).batch(torch.as_tensor(rows))
    outcomes = {"engaged": dataset.counts["engagement"]} | dict(dataset.outcomes)
    said = {name: dataset.in_one_period(of[rows]).astype(float) for name, of in outcomes.items()}
    seed, shown = run.config["settings"]["seed"], dataset.exposure[rows].astype(np.float64)
    return agreement(search_probability(run.guide, logs, seed), shown, said, seed=seed)


def run_config(dataset: Dataset, settings: Settings, found: Fit, seconds: float) -> dict[str, Any]:
    """What config.json holds: sizes, names, settings, and what was fitted on."""
    return {
        "version": __version__,
        "name": dataset.name,
        "platform_factors": settings.platform_factors,
        "preference_factors": settings.preference_factors,
        "exposure_covariates": dataset.exposure_covariates,
        "preference_covariates": dataset.preference_covariates,
        "categories": dataset.categories,
        "standardisation": found.standardisation.to_dict(),
        "settings": asdict(settings),
        "periods": dataset.periods.to_dict(),
        "covariates_until": dataset.covariates_until,
        "users": dataset.n_users,
        "held_out_users": int(found.held_out.sum()),
        "search_events": int(dataset.counts["search"].sum(dtype=float)),
        "recommendation_events": int(dataset.counts["exposure"].sum(dtype=float)),
        "seconds": round(seconds, 1),
    } | ({"outcomes": list(dataset.outcomes)} if dataset.outcomes else {})


def _matched_truth(factors: pd.DataFrame, truth: Truth, identified: IdentifiabilityReport) -> pd.DataFrame:
    """Each factor's true counterpart, with the factor's sign, mean and standard deviation."""
    matched = {}
    for channel, report in identified.channels.items():
        assert report.mcc is not None
        for true, (fitted, sign) in enumerate(zip(report.mcc.assignment, report.mcc.signs, strict=True)):
            if fitted >= 0:
                estimate, values = factors[f"{channel}_{fitted + 1}"], truth.factors[channel][:, true]
                standard = (values - values.mean()) / values.std()
                matched[f"{estimate.name}_true"] = sign * standard * estimate.std(ddof=0) + estimate.mean()
    return pd.DataFrame(matched, index=factors.index)


def _mechanism(run: Run, channel: str) -> dict[str, Any]:
    """Location and log-scale coefficients of a channel, with their posterior sds, a row per covariate."""
    block = {"platform": "exposure", "preference": "preference"}[channel]
    values: dict[str, Any] = {"covariates": run.config[f"{block}_covariates"]}
    for part in ("location", "bend", "log_scale"):
        name = f"{channel}_{part}"
        values |= {part: run.posterior.mean[name].tolist(), f"{part}_sd": run.posterior.sd[name].tolist()}
    return values


def _history(run: Run) -> dict[str, Any] | None:
    """Weights of the past's features with their posterior sds, by term; none where there is no past."""
    mean, sd = run.posterior.mean, run.posterior.sd
    if "learning" not in mean:
        return None
    terms = {
        name: {"features": list(of), "weight": mean[name].tolist(), "sd": sd[name].tolist()}
        for name, of in LOOKS_AT.items()
    }
    by_covariate = {
        part: values["personalisation"].tolist() for part, values in (("weight", mean), ("sd", sd))
    }
    return terms | {"personalisation": {"covariates": run.config["exposure_covariates"], **by_covariate}}


@torch.no_grad()
def _factor_categories(run: Run, factors: pd.DataFrame, most: int = 5) -> dict[str, dict[str, Any]]:
    """The categories that each factor raises and lowers most on its own surface, and by how much.

    ``change`` is that of the log share, for one standard deviation more of the factor (half of the change from -1 to
    +1), the channel's other factors at their means: at the posterior mean, with an interval over draws of the decoder.
    ``label`` is the factor in words.
    """
    model = run.guide.model
    described: dict[str, dict[str, Any]] = {}
    for channel, decoder in (("platform", "f_exposure"), ("preference", "f_search")):
        names = [name for name in run.factor_names if name.startswith(channel)]
        middle, sd = factors[names].mean().to_numpy(), factors[names].std(ddof=0).to_numpy()
        for k, name in enumerate(names):
            step = sd * np.eye(len(names))[k]
            ends = torch.as_tensor(np.stack([middle - step, middle + step]), dtype=torch.float32)
            change = _half_change(model, decoder, run.posterior.mean, ends)
            drawn = [
                _half_change(model, decoder, run.posterior.draw(i), ends)
                for i in range(run.posterior.n_draws)
            ]
            lower, upper = np.quantile(drawn, [0.05, 0.95], axis=0)
            order = np.argsort(change)
            chosen = {"raised": order[::-1][:most], "lowered": order[:most]}
            by_category = {
                run.categories[i]: {
                    "mean": float(change[i]),
                    "lower": float(lower[i]),
                    "upper": float(upper[i]),
                }
                for i in order[::-1]
            }
            described[name] = {key: [run.categories[i] for i in rows] for key, rows in chosen.items()}
            described[name] |= {"change": by_category, "label": label_of(by_category)}
    return described


def _half_change(model: HMVCRL, decoder: str, values: Values, ends: torch.Tensor) -> Array:
    """Half of what the log shares ``(C,)`` of a decoder with these weights change between two points ``(2, K)``."""
    own = {n.removeprefix(f"{decoder}."): t for n, t in values.items() if n.startswith(f"{decoder}.")}
    device = model.zero.device
    logits = functional_call(
        getattr(model, decoder), {n: t.to(device) for n, t in own.items()}, ends.to(device)
    )
    low, high = logits.log_softmax(-1)
    return as_numpy(high - low) / 2
