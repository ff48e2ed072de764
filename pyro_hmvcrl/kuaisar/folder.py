"""KuaiSAR's logs as a dataset folder, with the users' covariates and the whole account in ``import.json``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas import DataFrame

from pyro_hmvcrl.data.columns import varies
from pyro_hmvcrl.data.folder import write_dataset
from pyro_hmvcrl.kuaisar.clock import beijing
from pyro_hmvcrl.kuaisar.covariates import COVARIATES_SHARE, EXPOSURE, Covariate, preference_covariates
from pyro_hmvcrl.kuaisar.files import FEEDBACK, KuaisarError
from pyro_hmvcrl.kuaisar.logs import Kuaisar


def write_kuaisar(
    logs: Kuaisar,
    out: Path,
    exposure: Sequence[Covariate] | None = None,
    preference: Sequence[Covariate] | None = None,
    min_events: int = 10,
    covariates_share: float = COVARIATES_SHARE,
) -> dict[str, Any]:
    """Write logs as a dataset folder with ``import.json`` in it, whole or not at all; returns that account.

    Parameters
    ----------
    out
        Must not exist yet.
    exposure, preference
        Covariates of the two blocks, in place of `EXPOSURE` and :func:`preference_covariates`.
    min_events
        Users with fewer events on both surfaces together are left out.
    covariates_share
        Covariates are measured in the first part of the window, of this share, and the events are those of the rest;
        0: both of the whole window.

    Raises
    ------
    DatasetError
        If nothing is left, or `out` exists.
    KuaisarError
        If a covariate is out of all proportion, or one of the two parts of the window has too little in it.
    """
    before, rest, until = logs.split(covariates_share)
    blocks = {
        "exposure": EXPOSURE if exposure is None else exposure,
        "preference": preference_covariates(logs) if preference is None else preference,
    }
    surfaces = (rest.deliveries, rest.searches)
    n_events = sum(np.bincount(s["user"], minlength=len(logs.users)) for s in surfaces)
    kept = np.flatnonzero(n_events >= max(min_events, 1))
    users, described, left_out = _covariates(before, blocks, kept)
    place = np.full(len(logs.users), -1)
    place[kept] = np.arange(len(kept))
    deliveries, searches = (_events(s, logs.categories, users["user_id"].to_numpy(), place) for s in surfaces)
    given = [name for name in FEEDBACK if name in deliveries]
    outcomes = [name for name in given if 0 < deliveries[name].mean() < 1]
    account = logs.about | {
        "window": [beijing(t) for t in rest.window],
        "covariates_share": covariates_share,
        "covariates_window": [beijing(t) for t in before.window],
        "covariates_until": until,
        "files": logs.account.to_dict(),
        "users": {"read": len(logs.users), "kept": len(kept), "least_events": min_events},
        "search_events": len(searches),
        "recommendation_events": len(deliveries),
        "outcomes": {name: float(deliveries[name].mean()) for name in outcomes},
        "outcomes_left_out": [name for name in given if name not in outcomes],
        "covariates": described,
        "covariates_left_out": left_out,
    }
    extra = {"import.json": json.dumps(account, indent=2, ensure_ascii=False).encode()}
    write_dataset(
        out,
        name="generated copy of KuaiSAR" if logs.truth else "KuaiSAR",
        users=users,
        search_events=searches,
        recommendation_events=deliveries,
        outcomes=outcomes,
        exposure_covariates=[c["name"] for c in described if c["block"] == "exposure"],
        preference_covariates=[c["name"] for c in described if c["block"] == "preference"],
        extra_files=extra | ({"truth.npz": logs.truth} if logs.truth else {}),
        categories=logs.categories,
        covariates_until=until,
    )
    return account


def _covariates(
    logs: Kuaisar, blocks: dict[str, Sequence[Covariate]], kept: NDArray[np.intp]
) -> tuple[DataFrame, list[dict[str, Any]], list[dict[str, Any]]]:
    """The users' table, what each column is, and which are left out, as they are the same for all users."""
    users = {"user_id": logs.users["user_id"].to_numpy()[kept]}
    described, left_out = list[dict[str, Any]](), list[dict[str, Any]]()
    for block, covariates in blocks.items():
        for c in covariates:
            values = c.of(logs)[kept]
            missing = ~np.isfinite(values)
            values = np.where(missing, np.median(values[~missing]) if not missing.all() else 0.0, values)
            with np.errstate(over="ignore"):
                spread = np.var(values) if len(values) else 0.0
            if not np.isfinite(spread):
                far = np.abs(values).argmax()
                raise KuaisarError(
                    f"{logs.about['source']}: {c.name} ({c.definition}) is {values[far]:g} for user "
                    f"{users['user_id'][far]}; mend or leave out that user's rows"
                )
            said = {"name": c.name, "block": block, "definition": c.definition, "why": c.why}
            if len(values) and varies(values):
                users[c.name] = values
                described.append(said | {"users_given_the_median": int(missing.sum())})
            else:
                reason = "no user has a value" if missing.all() else f"{values[0]:g} for all users"
                left_out.append(said | {"reason": reason})
    return DataFrame(users), described, left_out


def _events(
    surface: DataFrame, categories: list[str], user_id: NDArray[np.int64], place: NDArray[np.intp]
) -> DataFrame:
    """Events of the users who are kept, as a dataset folder has them."""
    position = place[surface["user"]]
    of_kept = surface[position >= 0]
    columns: dict[str, Any] = {
        "user_id": user_id[position[position >= 0]],
        "timestamp": of_kept["time"].to_numpy(),
        "category": pd.Categorical.from_codes(of_kept["category"].to_numpy(), categories=categories),
    }
    for mark in ("engaged", "suggested", *FEEDBACK):
        if mark in surface:
            columns[mark] = of_kept[mark].to_numpy()
    return DataFrame(columns)
