"""The account of an import of KuaiSAR in words, as a terminal shows it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

Account = Mapping[str, Any]  #: what import.json holds


def files_text(account: Account) -> str:
    """What was kept of each file, and what was dropped, and why."""
    lines = []
    for file, of in account["files"].items():
        lines.append(f"{file}: {of['read']:,} rows, {of['kept']:,} kept")
        lines += [f"    {times:>12,}  {reason}" for reason, times in of["dropped"].items()]
        for reason, times in of.get("without_a_value", {}).items():
            lines.append(f"    {times:>12,}  kept without it: {reason}")
    return "\n".join(lines)


def logs_text(account: Account, out: Path) -> str:
    """What the dataset folder has."""
    return (
        f"{out}: {account['users']['kept']:,} users, {account['search_events']:,} search and "
        f"{account['recommendation_events']:,} recommendation events in {account['categories']} categories, "
        f"{account['window'][0]} to {account['window'][1]}"
    )


def covariates_text(account: Account) -> str:
    """When covariates are measured, which some users lack, and which are left out, as all users have the same."""
    lines = []
    if account["covariates_until"] is not None:
        lines.append(
            "covariates measured from {} to {}, before the events".format(*account["covariates_window"])
        )
    for covariate in account["covariates"]:
        if filled := covariate["users_given_the_median"]:
            lines.append(
                f"covariate {covariate['name']}: {filled:,} users have none, and are given the median"
            )
    for covariate in account.get("covariates_left_out", []):
        lines.append(f"covariate {covariate['name']} is left out: {covariate['reason']}")
    return "\n".join(lines)


def covariates_notes(account: Account) -> list[str]:
    """What is to be known before the covariates are used."""
    if account["covariates_until"] is not None:
        return []
    return [
        "covariates are measured in the very window of the events, and what is made of events goes with them, whatever "
        "caused it; --covariates-share 0.25 measures them before"
    ]
