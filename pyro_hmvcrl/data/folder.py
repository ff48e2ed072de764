"""The dataset folder: users with covariates, and their events on two surfaces::

    dataset.json                    {"name", "exposure_covariates": [...], "preference_covariates": [...]}
                                    and, if wanted, "categories": [...], and "covariates_until": ms since epoch,
                                    before which is what the covariates describe, and no event that is used;
                                    "outcomes": [...], columns of recommendation_events beside `engaged`
    users.parquet                   user_id, one number per covariate (in its own unit)
    search_events.parquet           user_id, timestamp (ms since epoch), category; if wanted, suggested (0/1)
    recommendation_events.parquet   user_id, timestamp, category, engaged (0/1); if wanted, further outcomes (0/1)

Each table may be ``.csv`` instead.  :func:`read_dataset` refuses bad input with one error that names file,
column, first bad row and the mend; :func:`write_dataset` writes nothing that it would refuse.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from pyro_hmvcrl.data import remarks
from pyro_hmvcrl.data.columns import (
    FINITE,
    KEYS,
    ONCE,
    USER,
    VARIES,
    as_codes,
    as_integers,
    as_numbers,
)
from pyro_hmvcrl.data.counts import Keys, Survey, checks_of, from_on, survey
from pyro_hmvcrl.data.dataset import Dataset
from pyro_hmvcrl.data.files import check_text, read_json, whole_folder
from pyro_hmvcrl.data.names import (
    like,
    listed,
    look_alikes,
    outcome_problem,
    plain,
    reserved_among,
    short,
)
from pyro_hmvcrl.data.periods import DAY, Periods, moment_of
from pyro_hmvcrl.data.tables import TABLES, DatasetError, Table, read_table, validate

MOST_EXTRA = 1 << 26  #: values of further columns of the users' table that are held in memory


def read_dataset(
    folder: str | Path,
    categories: Sequence[str] | None = None,
    periods: int | Periods | None = None,
) -> Dataset:
    """Read and check a dataset folder.

    Parameters
    ----------
    folder
        See the top of this module for its files.
    categories
        Those of a fitted run, to encode new logs under it.  Covariates need not vary then: the fitted run's
        mean and standard deviation serve.
    periods
        Into how many equal parts the window is cut; by default as :mod:`~pyro_hmvcrl.data.periods` says.  Or the
        periods of a fitted run, whose length serves.

    Raises
    ------
    DatasetError
        On bad input.  The number of a row is that of the line in the file for CSV ("line"), and else counts
        from 1 ("row").
    """
    folder = Path(folder)
    description = _read_description(folder / "dataset.json")
    return assemble(description, [read_table(folder, stem) for stem in TABLES], categories, periods)


def check_new(out: Path) -> None:
    """Refuse to write a dataset folder where something is.

    Raises
    ------
    DatasetError
        Which says so.
    """
    if out.exists():
        raise DatasetError(f"{out}: exists already; choose another folder or remove this one")


def write_dataset(
    folder: str | Path,
    name: str,
    users: pd.DataFrame,
    search_events: pd.DataFrame,
    recommendation_events: pd.DataFrame,
    exposure_covariates: Sequence[str],
    preference_covariates: Sequence[str],
    format: str = "parquet",
    extra_files: Mapping[str, bytes] | None = None,
    categories: Sequence[str] | None = None,
    covariates_until: int | None = None,
    outcomes: Sequence[str] = (),
) -> tuple[str, ...]:
    """Check a dataset and write its folder, whole or not at all; what checking found worth saying.

    Parameters
    ----------
    folder
        Must not exist yet.
    name, users, search_events, recommendation_events, exposure_covariates, preference_covariates
        As in :class:`Dataset`; the tables' indices are left out.
    format
        Of the tables: "parquet" or "csv".
    extra_files
        Name and content of files to put beside them.
    categories
        Where the events may lack some of them.
    covariates_until
        The covariates describe what was before this moment, ms since epoch.  Events before it are not written.
    outcomes
        Columns of `recommendation_events` that are outcomes beside `engaged`.

    Raises
    ------
    DatasetError
        If the folder exists, or on anything that :func:`read_dataset` would refuse.
    """
    folder = Path(folder)
    if format not in ("parquet", "csv"):
        raise DatasetError(f"{folder}: format {format!r} is neither parquet nor csv; choose one of them")
    check_new(folder)
    description: dict[str, Any] = {
        "name": name,
        "exposure_covariates": list(exposure_covariates),
        "preference_covariates": list(preference_covariates),
    }
    if categories is not None:
        description["categories"] = list(categories)
    if covariates_until is not None:
        of_numpy = isinstance(covariates_until, np.integer)
        description["covariates_until"] = int(covariates_until) if of_numpy else covariates_until
    if outcomes:
        description["outcomes"] = list(outcomes)
    check_description(folder / "dataset.json", description)
    frames = zip(TABLES, (users, search_events, recommendation_events), strict=True)
    tables = [Table(str(folder / f"{stem}.{format}"), f.reset_index(drop=True)) for stem, f in frames]
    checked = assemble(description, tables)

    with whole_folder(folder) as temporary:
        for file, content in (extra_files or {}).items():
            (temporary / file).write_bytes(content)
        (temporary / "dataset.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        for stem in TABLES:
            frame, path = getattr(checked, stem), temporary / f"{stem}.{format}"
            if format == "csv":
                frame.to_csv(path, index=False)
            else:
                frame.to_parquet(path, index=False)
    return checked.remarks


def _read_description(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DatasetError(f"{path}: no such file; a dataset folder has a dataset.json, write one")
    try:
        description = read_json(path)
    except ValueError as error:
        raise DatasetError(f"{path}: not valid JSON: {error}; mend it there") from error
    check_description(path, description)
    return description


def check_description(path: Path | str, description: Any) -> None:
    """Raise if what ``dataset.json`` holds cannot be; `path` is how errors name it."""
    if not isinstance(description, dict) or not isinstance(description.get("name"), str):
        raise DatasetError(f'{path}: must be an object with a "name", which is a string; add it')
    try:
        check_text(description)
    except ValueError as error:
        raise DatasetError(f"{path}: not plain text: {error}; mend it there") from error
    lists: dict[str, Any] = {"categories": [], "outcomes": [], **description}
    for key, kinds in (
        ("exposure_covariates", str),
        ("preference_covariates", str),
        ("categories", str | int),
        ("outcomes", str),
    ):
        if not isinstance(lists.get(key), list) or not all(isinstance(value, kinds) for value in lists[key]):
            raise DatasetError(f'{path}: "{key}" must be a list of names; mend it')
    until = description.get("covariates_until")
    if until is not None and (type(until) is not int or abs(until) >= 2**62):
        raise DatasetError(
            f'{path}: "covariates_until" is {short(str(until))}, and must be a whole number, milliseconds since 1970; '
            "mend it or take it out"
        )
    covariates = [*lists["exposure_covariates"], *lists["preference_covariates"]]
    if "user_id" in covariates:
        raise DatasetError(f"{path}: user_id names the users and cannot be a covariate; take it out")
    if name := reserved_among(covariates):
        raise DatasetError(
            f"{path}: covariate {short(name)} has the name of a channel, factor or site of the model, and a shift "
            "of it would be taken for one of that; rename it here and in the users' table"
        )
    if problem := outcome_problem(lists["outcomes"]):
        raise DatasetError(f"{path}: outcome {problem}, here and in recommendation_events")
    of_lists = {"covariate": covariates, "category": lists["categories"], "outcome": lists["outcomes"]}
    for noun, values in of_lists.items():
        for value, times in Counter(map(str, values)).items():
            if times > 1:
                raise DatasetError(f"{path}: {noun} {short(value)} is listed {times} times; list it once")


def assemble(
    description: dict[str, Any],
    tables: Sequence[Table],
    categories: Sequence[str] | None = None,
    periods: int | Periods | None = None,
) -> Dataset:
    """Check the tables, alone and against each other, and count."""
    users, fitted = tables[0], categories is not None
    events = dict(zip(TABLES[1:], tables[1:], strict=True))
    _check_not_empty(users, events, fitted)
    blocks = {key: list(description[key]) for key in ("exposure_covariates", "preference_covariates")}
    covariates = [name for names in blocks.values() for name in names]
    people = users.only(["user_id", *covariates])
    of_covariate = [FINITE] if fitted else [FINITE, VARIES]
    validate(users, people, {"user_id": [*USER, ONCE], **{name: of_covariate for name in covariates}})
    ids = plain(as_codes(people["user_id"])[1])
    held, said = _with_extras(users, people)
    native = _native(ids, people["user_id"], users.csv_file is not None)
    held = held.assign(user_id=native, **{name: as_numbers(people[name]) for name in covariates})
    said += remarks.of_keys(description)
    said += remarks.of_names(users.label, "user_id", ids) if ids.dtype != "int64" else []
    said += remarks.of_covariates(users.label, held, covariates)

    outcomes = [*description.get("outcomes", ())]
    checks = {stem: checks_of(table, stem, outcomes) for stem, table in events.items()}
    until = description.get("covariates_until")
    found = {stem: survey(table, checks[stem], until, outcomes) for stem, table in events.items()}
    if until is not None:
        _check_some_after(until, events, found)
        said += remarks.of_until(until, found)
    if not fitted:
        _check_surfaces(events, found)
    window = _window(until, found)
    cut = periods.like(*window) if isinstance(periods, Periods) else Periods.cut(*window, periods)
    seen = set[str]().union(*(plain(of.labels.index.astype("str")) for of in found.values()))
    given = categories if fitted else description.get("categories")
    known = _sorted(seen) if given is None else [str(category) for category in given]
    for stem, table in events.items():
        said += remarks.of_times(table.label, found[stem])
        said += remarks.of_floats(table.label, found[stem].labels.index, known)
    if all(of.events for of in found.values()):
        said += remarks.of_surfaces(found)
    said += remarks.of_names(" and ".join(events), "category", [*seen, *known])
    said += remarks.of_periods(cut, periods if isinstance(periods, int) else None, *window)

    keys = Keys(ids, pd.Index(known, dtype="str"), users.label, leave_out=fitted)
    counted = {stem: keys.count(table, checks[stem], cut, until, outcomes) for stem, table in events.items()}
    for stem, table in events.items():
        said += remarks.of_events(table.label, counted[stem], found[stem].events, window[0] < window[1])
    counts = dict(zip(("search", "suggested"), counted["search_events"].matrices, strict=False))
    counts |= dict(zip(("exposure", "engagement"), counted["recommendation_events"].matrices, strict=True))
    if not fitted:
        _check_counts(users, events, counts)
    elif not any(of.nnz for of in counts.values()):
        there = found["recommendation_events"].labels.index.union(found["search_events"].labels.index)
        other = like(str(there[0]), known)
        hint = f" ({short(other)} there and {short(there[0])} here look alike)" if other else ""
        raise events["recommendation_events"].error(
            "category",
            f"none of the events is of a category that the run knows ({listed(known)}); here are {listed(there)}{hint}",
        )
    said += remarks.of_counts(counts, cut.number)

    def as_held(stem: str) -> pd.DataFrame:
        frame = from_on(events[stem].frame, until)
        user, category = keys.positions(events[stem], frame)
        whole = {name: as_integers(frame[name]) for name in checks[stem] if name not in KEYS}
        names = pd.array(known, dtype="str").take(np.maximum(category, 0))
        frame = frame.assign(user_id=held["user_id"].array.take(user), category=names, **whole)
        return frame[category >= 0].reset_index(drop=True)

    return Dataset(
        name=description["name"],
        users=held,
        **blocks,
        categories=known,
        periods=cut,
        counts=counts,
        event_tables={stem: partial(as_held, stem) for stem in events},
        remarks=tuple(said),
        covariates_until=until,
        outcomes=counted["recommendation_events"].outcomes,
    )


def _check_not_empty(users: Table, events: Mapping[str, Table], fitted: bool) -> None:
    """A fit needs both surfaces; users whose factors are asked may lack one."""
    for table in (users, *events.values()):
        rest = [of for of in events.values() if of is not table]
        if table.is_empty and not (fitted and table is not users and not all(of.is_empty for of in rest)):
            raise table.error(None, "no rows; the model needs users, and events of both surfaces")


def _check_some_after(until: int, events: Mapping[str, Table], found: Mapping[str, Survey]) -> None:
    """Raise if the covariates describe a time after all events of a surface."""
    for stem, of in found.items():
        if of.before and not of.events:
            raise events[stem].error(
                "timestamp",
                f'all events are before "covariates_until" of dataset.json, which is {until} ({moment_of(until)}), and '
                "are not used; give an earlier moment there, in milliseconds since 1970, or take it out",
            )


def _window(until: int | None, found: Mapping[str, Survey]) -> tuple[int, int]:
    """First and last moment of the events: from where the covariates end, unless a day or more is empty after it."""
    first, last = min(of.first for of in found.values()), max(of.last for of in found.values())
    return until if until is not None and first - until < DAY else first, last


def _with_extras(users: Table, people: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The users' table with its further columns, as long as the memory is not what they take."""
    extra = len(users.columns) - people.shape[1]
    if extra * len(people) > MOST_EXTRA:
        return people, [
            f"{users.label}: {extra:,} columns that no covariate needs are left out, as they are large"
        ]
    return users.frame, []


def _check_surfaces(events: Mapping[str, Table], found: Mapping[str, Survey]) -> None:
    """Raise if the surfaces have no category in common, or nothing varies."""
    shown = events["recommendation_events"]
    if not 0 < found["recommendation_events"].engaged < found["recommendation_events"].events:
        raise shown.error("engaged", "the same in all rows; the model needs events of both kinds, 0 and 1")
    for name, number in found["recommendation_events"].said.items():
        if not 0 < number < found["recommendation_events"].events:
            raise shown.error(
                name, 'the same in all rows, and tells nothing; take it out of "outcomes" of dataset.json'
            )
    searched, fed = (of.labels.index for of in found.values())
    if len({*searched, *fed}) == 1:
        raise shown.error(
            "category", f"{short(fed[0])} in all events of both tables; give categories that differ"
        )
    if not any(remarks.shared_categories(found)):
        alike = look_alikes([*searched, *fed])
        hint = f" ({short(alike[0][0])} and {short(alike[0][1])} look alike)" if alike else ""
        raise shown.error(
            "category",
            f"none of them is one of {events['search_events'].label}: {_some(fed)} here, {_some(searched)} there"
            f"{hint}; name them alike in both tables",
        )


def _some(labels: pd.Index) -> str:
    return ", ".join(map(short, sorted(labels)[:3]))


def _check_counts(users: Table, events: Mapping[str, Table], counts: Mapping[str, csr_matrix]) -> None:
    """Raise if nothing ties the surfaces together, or nothing tells of preference."""
    if not counts["search"].nnz:
        problem = "1 throughout; without searches of the users' own nothing tells of preference"
        raise events["search_events"].error("suggested", problem)
    searching, fed = (np.diff(counts[surface].indptr) > 0 for surface in ("search", "exposure"))
    if not (searching & fed).any():
        raise users.error(
            "user_id", "no user has events of both surfaces; are users named alike in both event tables?"
        )


def _native(ids: pd.Index, written: pd.Series, from_text: bool) -> pd.Index:
    """User ids as integers where the table has integers, as numbers or (all of them) as CSV text."""
    may_be = from_text or pd.api.types.is_float_dtype(written.dtype)
    whole = may_be and ids.str.fullmatch("0|-?[1-9][0-9]{0,17}").all()
    try:
        return ids.astype("int64") if whole or pd.api.types.is_integer_dtype(written.dtype) else ids
    except OverflowError:  # unsigned, and large
        return ids


def _sorted(labels: set[str]) -> list[str]:
    if all(re.fullmatch("-?[0-9]{1,1000}", label) for label in labels):  # int takes no more than 4,300
        return sorted(labels, key=lambda label: (int(label), label))
    return sorted(labels)
