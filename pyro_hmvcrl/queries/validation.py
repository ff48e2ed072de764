"""The back-test: what a run says of logs after a change of the platform, against what came.

The covariates of the new logs are as they were then, so that the platform's change is in them; what the run says of
their events is worked out from these covariates and the numbers of events alone.  Its intervals are predictive:
each replication draws the parameters from their joint posterior, every user's noise, and then all events of all users
(:func:`~pyro_hmvcrl.evidence.predictive.replicate`), so that they hold both what is not known of the model and what is
chance in the new logs.  Noise is drawn anew (interventional), or, of users whom the run knows, as their own logs speak
of it (counterfactual).

Beside the run stands what is said without a model: that all stays as before, with the sampling errors of both logs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import norm
from torch import Tensor
from tqdm.auto import tqdm

from pyro_hmvcrl.data.dataset import Dataset
from pyro_hmvcrl.data.files import read_json
from pyro_hmvcrl.data.folder import read_dataset
from pyro_hmvcrl.data.names import level_words
from pyro_hmvcrl.evidence.observed import OF_CATEGORIES, Figure, figures, observed_figures
from pyro_hmvcrl.evidence.predictive import Counts, replicate
from pyro_hmvcrl.inference.ambient import few_threads, own_state
from pyro_hmvcrl.inference.writing import alone_in, whole_file
from pyro_hmvcrl.queries.answer import LEVEL
from pyro_hmvcrl.queries.checks import RARE
from pyro_hmvcrl.queries.findings import check_level, interval
from pyro_hmvcrl.queries.overlap import beside_fit
from pyro_hmvcrl.queries.population import Population
from pyro_hmvcrl.run.files import MEND, RunError, of_file
from pyro_hmvcrl.run.run import Run
from pyro_hmvcrl.story.logs import Logs

Array = NDArray[np.float64]
FILE = "validation.json"  #: in a run folder
REPLICATIONS = 200
USERS = 40_000  #: users times periods, at most; drawn at random


@own_state()
def validate(
    folder: str | Path,
    after: Dataset | str | Path,
    *,
    counterfactual: bool = False,
    level: float = LEVEL,
    replications: int = REPLICATIONS,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, Any]:
    """What a run says of logs after a change of the platform, against what came.

    Parameters
    ----------
    folder
        A run folder, fitted to the logs before.
    after
        The logs after, or their folder: the same covariates as they then were, users that may be the same or others.
        Events in categories that the run does not know are left out, and it is said.
    counterfactual
        With the noise that their own logs before speak of, for those users whom the run knows.
    level
        Of the intervals.

    Returns
    -------
    dict
        What the command ``validate`` writes as JSON: by figure (`shown` and `searched`, shares by category, and
        `outcomes`) what was `before`, `predicted` with its interval, and `observed`; the `change`, predicted and
        observed; whether the observed is `inside`, and whether it is inside what is said without a model
        (`as_before`).  `coverage`: how many are inside, and how often as few are by chance (`p`).  `error`: mean
        absolute differences, the model's and those of as before.  `sentences` in plain words, the headline first, and
        `remarks` on the new logs; `outside`, the share of users who are unlike all whom the run was fitted on.

    Raises
    ------
    DatasetError
        If the logs are bad, or lack a covariate.
    RunError
        If the folder is not a run folder, or is of an older version; or none of the users is the run's and
        `counterfactual` is asked.
    ValueError
        If `level` does not lie between 0 and 1.
    """
    check_level(level)
    folder = Path(folder)
    population, before = Population.of(folder), _before(folder)
    dataset = _of_run(after, population.run)
    remarks, most = list(dataset.remarks), max(USERS // dataset.periods.number, 1)
    if dataset.n_users > most:
        remarks.append(f"{most:,} of the {dataset.n_users:,} users of the new logs are taken, at random")
        dataset = dataset.sample(most, seed)
    logs, beside = population.run.logs(dataset), beside_fit(folder, dataset.users)
    observed = observed_figures(Counts.of_logs(logs))
    own = _own_users(population, dataset)
    if counterfactual and not (own >= 0).any():
        raise RunError(
            f"{folder}: none of these users is the run's, so none has logs before; leave counterfactual out"
        )
    noisy = own if counterfactual else np.full_like(own, -1)
    drawn = _predicted(population, logs, noisy, replications, seed, progress)
    named = [name for name in observed if name in before]
    rows = {name: _rows(before[name], drawn[name], observed[name], level) for name in named}
    categories = population.run.categories
    found: dict[str, Any] = {
        "name": dataset.name,
        "kind": "counterfactual" if counterfactual else "interventional",
        "level": level,
        "replications": replications,
        "users": dataset.n_users,
        "users_of_the_run": int((own >= 0).sum()),
        "outside": float(beside.outside.mean()),
        **{name: dict(zip(categories, rows[name], strict=True)) for name in OF_CATEGORIES},
        "outcomes": {name: rows[name][0] for name in named if name not in OF_CATEGORIES},
    }
    found |= {
        "coverage": {name: _coverage([name], rows, drawn, level) for name in named}
        | {"all": _coverage(named, rows, drawn, level)},
        "error": {name: _error(rows[name]) for name in named},
    }
    return found | {"sentences": _sentences(found), "remarks": [*beside.sentences, *remarks]}


def keep_validation(folder: str | Path, found: dict[str, Any], out: Path | None = None) -> None:
    """Keep a back-test in its run folder, where the report finds it, and write it to `out` as well, if one is given."""
    folder = Path(folder)
    with alone_in(folder):
        for path in [folder / FILE, *([out] if out else [])]:
            with whole_file(path) as file:
                file.write_text(json.dumps(found, indent=2, allow_nan=False))


def _before(folder: Path) -> dict[str, Figure]:
    """What the logs that the run was fitted to have."""
    path = folder / "report.json"
    with of_file(path, f"fit again, or {MEND}"):
        of = read_json(path)["observed"]
        return {name: Figure(np.array(f["value"], float), np.array(f["se"], float)) for name, f in of.items()}


def _of_run(after: Dataset | str | Path, run: Run) -> Dataset:
    """The logs as the run reads them."""
    if not isinstance(after, Dataset):
        return read_dataset(after, run.categories, run.periods)
    return run.as_read(after)


def _own_users(population: Population, dataset: Dataset) -> NDArray[np.intp]:
    """Where the run has each of these users ``(N,)``; -1: nowhere."""
    known, asked = (
        pd.Index(ids).astype("str") for ids in (population.covariates["user_id"], dataset.user_id)
    )
    return np.asarray(known.get_indexer(asked))


@torch.no_grad()
def _predicted(
    population: Population,
    logs: Logs,
    own: NDArray[np.intp],
    replications: int,
    seed: int,
    progress: bool,
) -> dict[str, Array]:
    """Figures of replicated logs ``(R, L)``; users whom the run has (`own`) keep their noise."""
    run, rng = population.run, np.random.default_rng(seed)
    known, place = torch.as_tensor(own >= 0), torch.as_tensor(own[own >= 0])
    made = []
    torch.manual_seed(seed)
    with few_threads(logs.n_users * len(run.categories)):
        for i in tqdm(range(replications), "replicated logs", disable=not progress, leave=False):
            values = run.posterior.draw(i % run.posterior.n_draws)
            noise: Tensor = torch.randn(logs.n_users, run.model.n_noise)
            if len(place):
                noise[known] = population.users.noise(run.guide, values, place, noise[known])
            made.append(figures(replicate(run.model, values, logs, rng, noise)))
    return {name: np.stack([of[name] for of in made]) for name in made[0]}


def _rows(before: Figure, drawn: Array, observed: Figure, level: float) -> list[dict[str, Any]]:
    """What is told of each of a figure's numbers."""
    half = norm.ppf((1 + level) / 2) * np.hypot(before.se, observed.se)
    rows = []
    for was, now, draws, wide in zip(before.value, observed.value, drawn.T, half, strict=True):
        predicted = interval(draws, level)
        as_before = {"mean": float(was), "lower": float(was - wide), "upper": float(was + wide)}
        rows.append(
            {
                "before": float(was),
                "predicted": predicted,
                "observed": float(now),
                "change": {
                    "predicted": {part: value - float(was) for part, value in predicted.items()},
                    "observed": float(now - was),
                },
                "inside": _is_in(predicted, now),
                "as_before": as_before | {"inside": _is_in(as_before, now)},
            }
        )
    return rows


def _is_in(of: dict[str, float], value: float) -> bool:
    rounding = 1e-12
    return bool(of["lower"] - rounding <= value <= of["upper"] + rounding)


def _coverage(
    names: list[str], rows: dict[str, list[dict[str, Any]]], drawn: dict[str, Array], level: float
) -> dict[str, Any]:
    """How many of these figures' numbers are inside; and in which share of the replications as few are."""
    told = [row for name in names for row in rows[name]]
    made = np.concatenate([drawn[name] for name in names], 1)
    lower, upper = np.quantile(made, [(1 - level) / 2, (1 + level) / 2], axis=0)
    by_chance = ((made >= lower) & (made <= upper)).sum(1)
    inside = sum(row["inside"] for row in told)
    return {
        "inside": inside,
        "as_before": sum(row["as_before"]["inside"] for row in told),
        "of": len(told),
        "p": float((1 + (by_chance <= inside).sum()) / (1 + len(made))),
    }


def _error(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Mean absolute differences from what came."""
    return {
        "model": float(np.mean([abs(row["predicted"]["mean"] - row["observed"]) for row in rows])),
        "as_before": float(np.mean([abs(row["change"]["observed"]) for row in rows])),
    }


def _sentences(found: dict[str, Any]) -> list[str]:
    """The back-test in plain words, the headline first."""
    of = found["coverage"]["all"]
    inside, as_before, number, level = of["inside"], of["as_before"], of["of"], found["level"]
    said = [
        f"Of {number} figures of the new logs {inside} lie within the run's {level_words(level)} intervals, and "
        f"{as_before} within those of no change."
    ]
    if of["p"] < RARE:
        said.append(
            f"So few come about by chance with probability {of['p']:.2f}: the run does not predict these logs, and its "
            "answers on such a change are not to be relied on."
        )
    elif as_before >= level * number:
        said.append(
            "But little has changed past chance, so that this speaks neither for the run nor against it."
        )
    else:
        said.append("That is as it should be by chance: these logs do not speak against the run.")
    words = {"shown": "what is shown", "searched": "what is searched"}
    for name, error in found["error"].items():
        if name in words:
            said.append(
                f"Shares of {words[name]} are predicted with a mean error of {100 * error['model']:.2f} percentage "
                f"points; as before would be {100 * error['as_before']:.2f} off."
            )
    for name, row in found["outcomes"].items():
        low, high = (100 * row["predicted"][end] for end in ("lower", "upper"))
        said.append(
            f"{name.capitalize()} was {100 * row['before']:.1f}%; predicted {100 * row['predicted']['mean']:.1f}% "
            f"({low:.1f} to {high:.1f}), observed {100 * row['observed']:.1f}%."
        )
    return said
