"""The users of a run as a causal question meets them: covariates in their own units, factors, and both as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pyro_hmvcrl.guide.experts import Expert
from pyro_hmvcrl.inference.ambient import own_state
from pyro_hmvcrl.queries.averages import Users
from pyro_hmvcrl.queries.interventions import Interventions, Policy, apply
from pyro_hmvcrl.queries.overlap import LEVELS, Overlap, overlap
from pyro_hmvcrl.run.files import finite_tensors, of_file
from pyro_hmvcrl.run.labels import labels_of
from pyro_hmvcrl.run.load import load_run
from pyro_hmvcrl.run.run import Run

MOST_EVENTS = 1e6  #: of a user on a surface in a period; more were a damaged file


@dataclass(frozen=True)
class Population:
    """The users of a run: covariates in their own units, factors, and both as the model reads them."""

    run: Run
    covariates: pd.DataFrame
    factors: pd.DataFrame  #: posterior means and standard deviations (_sd)
    activity: pd.DataFrame  #: events by surface and period
    users: Users
    labels: dict[str, str]  #: of the factors, in words

    @classmethod
    @own_state()
    def of(cls, folder: str | Path) -> Population:
        """The users whom a run folder was fitted on.

        Raises
        ------
        RunError
            If the folder is not a run folder, or lacks a file.
        """
        folder = Path(folder)
        run = load_run(folder)
        names = [*run.config["exposure_covariates"], *run.config["preference_covariates"]]
        with of_file(folder / "covariates.parquet"):
            covariates = _finite(pd.read_parquet(folder / "covariates.parquet"), names)
            exposure, preference = map(torch.as_tensor, run.standardisation.standardise(covariates))
        names = [column for f in run.factor_names for column in (f, f"{f}_sd")]
        with of_file(folder / "factors.parquet"):
            factors = _finite(pd.read_parquet(folder / "factors.parquet"), names)
            _same_users(factors, covariates)
        with of_file(folder / "experts.safetensors"):
            experts = Expert(**finite_tensors(folder / "experts.safetensors"))
            k = run.guide.model.n_noise
            if [t.shape for t in experts] != [(len(covariates), k, k), (len(covariates), k)]:
                raise ValueError("of other users or factors than the run's")
            experts = Expert(*(t.to(exposure.dtype) for t in experts))
        with of_file(folder / "activity.parquet"):
            activity = pd.read_parquet(folder / "activity.parquet")
            _same_users(activity, covariates)
            numbers = _numbers(activity, run)
        users = Users.with_covariates(exposure, preference, experts, numbers)
        labels = labels_of(folder)
        return cls(
            run, covariates, factors, activity, users, {f: labels.get(f, "") for f in run.factor_names}
        )

    @property
    def factor_means(self) -> pd.DataFrame:
        """Posterior means of the factors."""
        return self.factors[self.run.factor_names]

    def sd_of(self, factor: str) -> float:
        """A factor's standard deviation over users, with what is not known of each of them."""
        within = (self.factors[f"{factor}_sd"] ** 2).mean()
        return float((self.factors[factor].var(ddof=0) + within) ** 0.5)

    @property
    def exposure(self) -> pd.DataFrame:
        """The exposure covariates, in their own units."""
        return self.covariates[self.run.config["exposure_covariates"]]

    @property
    def shares(self) -> list[str]:
        """Exposure covariates that seem to be shares, as all of their many values lie between 0 and 1."""
        now = self.exposure
        return [name for name in now if now[name].between(0, 1).all() and now[name].nunique() > LEVELS]

    def changed(self, policy: Policy, seed: int) -> tuple[pd.DataFrame, dict[str, float]]:
        """The exposure covariates under a policy, and of each share that of the users who are held at its ends."""
        shifted = apply(policy, self.exposure, seed)
        within = shifted.assign(**{name: shifted[name].clip(0, 1) for name in self.shares})
        held = (within != shifted).mean()
        return within, {str(name): float(share) for name, share in held.items() if share}

    def under(self, policy: Policy, seed: int) -> tuple[Interventions, Overlap]:
        """A policy as the model takes it, and whether the users' covariates support it."""
        shifted, _ = self.changed(policy, seed)
        exposure, _ = self.run.standardisation.standardise(self.covariates.assign(**shifted))
        support = overlap(self.covariates.drop(columns="user_id"), shifted)
        return {"exposure_covariates": torch.as_tensor(exposure)}, support


def _finite(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """A table of users, if these columns hold finite numbers."""
    numbers = table[list(columns)].to_numpy(np.float32)  # the model's
    if not len(table) or not np.isfinite(numbers).all():
        raise ValueError("users are missing, or a number is not finite")
    return table


def _numbers(activity: pd.DataFrame, run: Run) -> dict[str, Tensor]:
    """Events ``(N, T)`` by surface, as the model reads them; with one period they are not drawn, and none are asked."""
    number = run.config["periods"]["number"]
    names = {"search": "searched", "exposure": "shown", "engagement": "shown"}
    if "echo" in run.guide.model.priors:
        names["suggested"] = "suggested"
    found = {}
    for surface, name in names.items():
        columns = [f"{name}_{t + 1}" for t in range(number)]
        counts = _finite(activity, columns)[columns].to_numpy(np.float32, copy=True)
        if (counts < 0).any() or (counts > MOST_EVENTS).any():
            raise ValueError("a number of events cannot be")
        found[surface] = torch.as_tensor(counts)
    return found if number > 1 else {}


def _same_users(factors: pd.DataFrame, covariates: pd.DataFrame) -> None:
    if not factors["user_id"].equals(covariates["user_id"]):
        raise ValueError("of other users than covariates.parquet")
