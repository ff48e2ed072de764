"""How many factors: cheap fits of models with other numbers of them, and the choice among these."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm.auto import tqdm

from pyro_hmvcrl.data.dataset import CHANNELS, Channel, Dataset
from pyro_hmvcrl.data.files import read_json
from pyro_hmvcrl.evidence.predictive import predictive_checks
from pyro_hmvcrl.evidence.select import Candidate, Numbers, reasons, recommended, table, walk
from pyro_hmvcrl.inference.ambient import own_state
from pyro_hmvcrl.inference.bound import user_bounds
from pyro_hmvcrl.inference.laplace import ParameterPosterior, fitted_values
from pyro_hmvcrl.inference.processes import first, total, wait
from pyro_hmvcrl.inference.settings import Settings
from pyro_hmvcrl.inference.svi import Screening, screen
from pyro_hmvcrl.inference.writing import whole_file
from pyro_hmvcrl.run.files import RunError
from pyro_hmvcrl.run.judge import evaluate

START = 2  #: factors of a channel, from which the way starts
STEPS = 600  #: of a model's one start, at most: with 300 starts of one model differ by a tenth of a nat
HELD_OUT = 0.25  #: share of the users: models are judged more surely, and fitted to fewer
USERS = 8_000  #: at most, drawn at random: enough to tell any factor that counts
REPLICATIONS = 40  #: of the logs, for the checks
FEWEST_HELD_OUT = 20  #: users


def numbers_of(
    platform_factors: int | None, preference_factors: int | None
) -> tuple[dict[str, int], tuple[Channel, ...]]:
    """Numbers of factors for the settings, and the channels that are free as none is given for them."""
    given = dict(zip(CHANNELS, (platform_factors, preference_factors), strict=True))
    numbers = {f"{channel}_factors": START if n is None else n for channel, n in given.items()}
    return numbers, tuple(channel for channel, n in given.items() if n is None)


@dataclass(frozen=True, repr=False)
class Selection:
    """Models with other numbers of factors, and the recommended one.

    Attributes
    ----------
    free
        Channels whose number was to be chosen.
    candidates
        What is known of each model.
    """

    free: tuple[Channel, ...]
    candidates: dict[Numbers, Candidate]

    @property
    def platform_factors(self) -> int:
        """The recommended number."""
        return recommended(self.candidates)[0]

    @property
    def preference_factors(self) -> int:
        """The recommended number."""
        return recommended(self.candidates)[1]

    def of(self, settings: Settings) -> Settings:
        """These settings with the recommended numbers."""
        return replace(
            settings, platform_factors=self.platform_factors, preference_factors=self.preference_factors
        )

    @property
    def table(self) -> pd.DataFrame:
        """A row a model; see :func:`pyro_hmvcrl.evidence.select.table`."""
        return table(self.candidates)

    @property
    def sentences(self) -> list[str]:
        """The choice, and why."""
        return reasons(self.candidates, self.free)

    def __repr__(self) -> str:
        return f"Selection: {self.sentences[0]}"

    def to_dict(self) -> dict[str, Any]:
        """What a run keeps of it."""
        held_out = len(next(iter(self.candidates.values())).bounds)
        return {
            "platform_factors": self.platform_factors,
            "preference_factors": self.preference_factors,
            "channels": list(self.free),
            "held_out_users": held_out,
            "models": self.table.to_dict("records"),
            "sentences": self.sentences,
        }


@own_state()
def select_factors(
    dataset: Dataset,
    settings: Settings,
    free: Sequence[Channel] = CHANNELS,
    kept: Path | None = None,
    progress: bool = False,
) -> Selection:
    """Choose how many factors the `free` channels have: about eight fits, each of one short start without encoders.

    Parameters
    ----------
    settings
        Of the fit to come: its numbers of factors are where the way starts, and what a channel has that is not free.
    kept
        File for what is known already; a selection of the same that was killed goes on from it.
    progress
        Show a bar.

    Raises
    ------
    RunError
        If the users are too few, or no channel is free.
    """
    if not free:
        raise RunError("both numbers of factors are given: leave out the one that is to be chosen")
    some = dataset.sample(USERS, settings.seed)
    if round(HELD_OUT * some.n_users) < FEWEST_HELD_OUT:
        needed = round(FEWEST_HELD_OUT / HELD_OUT)
        raise RunError(
            f"{dataset.name}: {dataset.n_users} users are too few to choose numbers of factors; give the numbers, or "
            f"{needed} users or more"
        )
    known = _read_kept(kept)
    wait()  # until all have read it
    with tqdm(desc="models", disable=not (progress and first()), leave=False) as bar:

        def candidate_of(numbers: Numbers) -> Candidate:
            bar.set_postfix_str("{} + {} factors".format(*numbers))
            if numbers not in known:
                known[numbers] = fit_candidate(some, settings, numbers)
                _keep(kept, known)
            bar.update()
            return known[numbers]

        start = settings.platform_factors, settings.preference_factors
        return Selection(tuple(free), walk(start, free, candidate_of))


def fit_candidate(dataset: Dataset, settings: Settings, numbers: Numbers) -> Candidate:
    """Fit a model with these numbers of factors to three quarters of the users, and judge it at the others."""
    platform, preference = numbers
    cheap = replace(
        settings,
        platform_factors=platform,
        preference_factors=preference,
        restarts=1,
        steps=min(settings.steps, STEPS),
        held_out=HELD_OUT,
    )
    found = screen(dataset, cheap)
    torch.manual_seed(settings.seed)  # the same particles for all
    bounds = user_bounds(found.guide.expansion(found.held.n_users), found.held)
    bounds = total(bounds if first() else torch.zeros_like(bounds))  # of several processes the first decides
    levels = _levels(found, dataset, settings.seed)
    channels = evaluate(found, dataset).channels
    return Candidate(
        bounds=bounds.double().cpu().numpy(),
        search_rest=levels["search_rest"],
        exposure_rest=levels["exposure_rest"],
        identified={channel: report.is_identified for channel, report in channels.items()},
        collapsed=sum(len(report.collapse.collapsed) for report in channels.values() if report.collapse),
    )


def _levels(found: Screening, dataset: Dataset, seed: int) -> dict[str, str]:
    """Predictive checks of the factors' number at the held-out users: their levels, by name.

    At the fitted values, whose own spread is small beside what is looked for.
    """
    values = {name: value.cpu() for name, value in fitted_values(found.guide).items()}
    point = ParameterPosterior(values, {}, {name: value[None] for name, value in values.items()}, {}, {})
    held = found.held.batch(torch.arange(found.held.n_users, device=found.held.rows.device))
    names = dataset.categories, dataset.exposure_covariates, dataset.preference_covariates
    made = predictive_checks(found.guide.model, point, held, *names, seed=seed, replications=REPLICATIONS)
    checks = made["checks"]
    return {name: checks.get(name, {"level": "good"})["level"] for name in ("search_rest", "exposure_rest")}


def _read_kept(kept: Path | None) -> dict[Numbers, Candidate]:
    """Models that were fitted before; of a file that cannot be read none, as they cost little."""
    try:
        models = read_json(kept) if kept is not None else []
        return {(m["platform"], m["preference"]): Candidate.from_dict(m["found"]) for m in models}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _keep(kept: Path | None, known: dict[Numbers, Candidate]) -> None:
    if kept is None or not first():
        return
    models = [
        {"platform": platform, "preference": preference, "found": candidate.to_dict()}
        for (platform, preference), candidate in known.items()
    ]
    with whole_file(kept) as file:
        file.write_text(json.dumps(models))
