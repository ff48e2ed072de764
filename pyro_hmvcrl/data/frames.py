"""A company's own tables made into a dataset, in one step, with an account of what was done.

:func:`from_frames` gives the dataset, :func:`prepare` the tables of a dataset folder.  Columns are found by their names
(those of `columns`, those of a dataset folder, or the usual ones of `USUAL`), dates of any kind and unit are read, yes
and no become 1 and 0, covariates of text become indicators, gaps of covariates are filled, and events that cannot be
used are left out.  All of it is said; what cannot be mended here is listed at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from pyro_hmvcrl.data.columns import ROUNDED_KEY, as_codes, first_rounded
from pyro_hmvcrl.data.dataset import Dataset
from pyro_hmvcrl.data.folder import assemble, check_description
from pyro_hmvcrl.data.names import WHOLE, like, listed, outcome_problem, percent, plain, short
from pyro_hmvcrl.data.periods import EARLIEST, Periods
from pyro_hmvcrl.data.tables import DatasetError, Table
from pyro_hmvcrl.data.values import REST, UnclearError, as_text, covariate, marks, moments, one_spelling

LABELS = ("users", "searches", "recommendations")
NEEDED = {"users": ["user_id"], "searches": ["user_id", "category"]}
NEEDED["recommendations"] = [*NEEDED["searches"], "engaged"]
MARKS = {"searches": ["suggested"], "recommendations": ["engaged"]}  #: yes or no, of a surface's events
#: Names that columns usually go by, compared without case and underscores.
USUAL = {
    "user_id": ["userid", "user", "uid", "customerid", "memberid", "userkey"],
    "timestamp": ["time", "ts", "datetime", "eventtime", "date", "createdat", "timems"],
    "category": ["genre", "cat", "topic", "categoryid", "categoryname"],
    "engaged": ["clicked", "click", "isclick", "engagement", "played", "watched"],
    "suggested": ["issuggested"],
    "surface": [],
}
OF_EVENTS = ("user_id", "timestamp", "category", "surface")
SEARCHES = r"^(?:search|quer)"  #: how values of a column `surface` begin that mean search
MANY_CATEGORIES = 200  #: from which it is said that a fit is costly


class ProblemsError(DatasetError):
    """All that keeps tables from being used, a sentence each in `problems`."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        numbered = [f"({n}) {problem}" for n, problem in enumerate(problems, 1)]
        super().__init__(
            problems[0] if len(problems) == 1 else f"{len(problems)} problems: " + "; ".join(numbered)
        )


@dataclass
class Account:
    """What was done to tables.

    Attributes
    ----------
    tables
        By table: rows read and kept, and rows left out by reason.
    said
        All of it in sentences.
    problems
        What keeps the tables from being used.
    own_names
        What a table calls a column, by its label and what the column is called here.
    """

    tables: dict[str, dict[str, Any]] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    own_names: dict[tuple[str, str], str] = field(default_factory=dict)

    def problem(self, table: Table, column: str | None, problem: str, row: int | None = None) -> None:
        """Note what is wrong in a table, as errors of a dataset have it, by the column's own name."""
        own = column and self.own_names.get((table.label, column), column)
        self.problems.append(str(table.error(own, problem, row)))

    def only(self, label: str, rows: pd.DataFrame, good: pd.Series, reason: str) -> pd.DataFrame:
        """The good ones of these rows; the others are left out for this reason."""
        if good.all():
            return rows
        left_out = int((~good).sum())
        self.tables[label]["dropped"][reason] = left_out
        self.said.append(f"{label}: {left_out:,} of {len(rows):,} rows are left out: {reason}")
        return rows[good]

    def to_dict(self) -> dict[str, Any]:
        """What ``import.json`` holds."""
        return {"tables": self.tables, "said": self.said}


@dataclass(frozen=True)
class Prepared:
    """Tables as a dataset folder has them, its description, and the account of how they came to be."""

    users: pd.DataFrame
    search_events: pd.DataFrame
    recommendation_events: pd.DataFrame
    description: dict[str, Any]
    account: Account


def from_frames(
    users: pd.DataFrame,
    searches: pd.DataFrame,
    recommendations: pd.DataFrame | None = None,
    *,
    exposure: Sequence[str],
    preference: Sequence[str],
    columns: Mapping[str, str] | None = None,
    top_categories: int | None = None,
    periods: int | Periods | None = None,
    categories: Sequence[str] | None = None,
    outcomes: Sequence[str] = (),
    name: str = "logs",
) -> Dataset:
    """Make a dataset of tables as they are.

    Parameters
    ----------
    users
        A row a user: ``user_id`` and the covariates, which may be numbers, booleans, dates or texts of a few kinds.
    searches
        A row a search: ``user_id``, ``category`` and, if there is one, ``timestamp``; ``suggested`` marks searches that
        the platform suggested.
    recommendations
        A row an item shown: as `searches`, with ``engaged``.  If one table holds both surfaces, give it as `searches`
        alone, with a column ``surface``, whose values begin with "search" where users searched.
    exposure, preference
        Columns of `users` that tell what the platform did, and who the user is apart from it.
    columns
        Own names of columns, and what they are called here: ``{"genre": "category"}``.
    top_categories
        All but this many of the most frequent categories become one, "other".
    periods
        Equal parts of the window, 1 for none; by default as its length has it, see :mod:`~pyro_hmvcrl.data.periods`.
        Or those of a run that is to read these logs (``run.periods``), whose length serves.
    categories
        Those of a run that is to read these logs (``run.categories``); events of others are left out.
    outcomes
        Columns of `recommendations` that are outcomes beside `engaged`: yes or no for every item shown.
    name
        Of the dataset.

    Returns
    -------
    Dataset
        Its `remarks` say all that was done.

    Raises
    ------
    ProblemsError
        All at once that cannot be mended here: it names table, column, the first row (from 1) and the mend.

    Examples
    --------
    >>> users = pd.DataFrame({"user": ["a", "b", "c"], "autoplay": [True, False, True]})
    >>> users["plan"] = ["free", "pro", "free"]
    >>> searches = pd.DataFrame({"user": ["a", "b"], "genre": ["cars", "westerns"]})
    >>> shown = searches.assign(clicked=["yes", "no"])
    >>> logs = from_frames(users, searches, shown, exposure=["autoplay"], preference=["plan"])
    >>> logs.preference_covariates, logs.periods.number, logs.engagement.sum().item()
    (['plan_pro'], 1, 1.0)
    """
    frames = dict(
        zip(LABELS, (users, searches, searches if recommendations is None else recommendations), strict=True)
    )
    tables = {label: Table(label, _with_index(frame)) for label, frame in frames.items()}
    made = prepare(tables, exposure, preference, columns, top_categories, name, outcomes)
    parts = made.users, made.search_events, made.recommendation_events
    held = [Table(label, frame) for label, frame in zip(LABELS, parts, strict=True)]
    dataset = assemble(made.description, held, categories, periods)
    return replace(dataset, remarks=(*made.account.said, *dataset.remarks))


def _with_index(frame: pd.DataFrame) -> pd.DataFrame:
    """A table with its index as a column, if it has a name."""
    return frame.reset_index(drop=frame.index.name is None or frame.index.name in frame)


def prepare(
    tables: Mapping[str, Table],
    exposure: Sequence[str],
    preference: Sequence[str],
    columns: Mapping[str, str] | None = None,
    top_categories: int | None = None,
    name: str = "logs",
    outcomes: Sequence[str] = (),
) -> Prepared:
    """As :func:`from_frames`, of tables by their label (`users`, `searches`, `recommendations`): the tables to write.

    Raises
    ------
    ProblemsError
        As there.
    """
    account = Account()
    exposure, preference, outcomes = (
        [of] if isinstance(of, str) else [*of] for of in (exposure, preference, outcomes)
    )
    if top_categories is not None and top_categories < 2:
        account.problems.append(f"top_categories is {top_categories}: it must be at least 2")
    if problem := outcome_problem(map(str, outcomes)):
        account.problems.append(f"outcome {problem}")
        outcomes = []
    asked = dict.fromkeys(LABELS, outcomes) | {"users": [*exposure, *preference]}
    frames = _named(tables, {**(columns or {})}, asked, account)
    for label in LABELS:
        account.tables[label] = {"read": len(frames[label]), "dropped": {}}
    _, searches, shown = (tables[label] for label in LABELS)
    if "surface" not in frames["searches"] and searches.frame.equals(shown.frame):
        problem = "missing, and both surfaces are the same rows; say which column tells searches from what was shown"
        account.problem(searches, "surface", problem)
    for label in LABELS[1:]:
        frames[label] = _of_surface(tables[label], frames[label], label, account)
    whole = [label for label in LABELS if _has_all(tables[label], frames[label], label, account)]
    whole = [label for label in whole if _keys_are_exact(tables[label], frames[label], account)]
    timed = all("timestamp" in frames[label] for label in LABELS[1:])
    if not timed:
        account.said.append("there are no timestamps on both surfaces: there is one period")
    blocks: dict[str, list[str]] = {}
    if "users" in whole:
        frames["users"], blocks = _users(tables["users"], frames["users"], exposure, preference, account)
    known = _keys(frames["users"]["user_id"]) if "users" in whole else None
    for of in whole:
        if of != "users":
            further = outcomes if of == "recommendations" else []
            frames[of] = _events(tables[of], of, frames[of], known, timed, further, account)
    _stop_at(account)
    events = _merged([frames[of] for of in LABELS[1:]], top_categories, account)
    description = {"name": name, **blocks} | ({"outcomes": outcomes} if outcomes else {})
    try:
        check_description("the names", description)
    except DatasetError as error:
        account.problems.append(str(error))
    for label, frame in zip(LABELS, (frames["users"], *events), strict=True):
        account.tables[label]["kept"] = len(frame)
        if not len(frame):
            account.problem(tables[label], None, "no row is left that can be used; see its columns")
    _stop_at(account)
    users, searches, shown = map(_writable, (frames["users"], *events))
    return Prepared(users, searches, shown, description, account)


def _has_all(table: Table, frame: pd.DataFrame, label: str, account: Account) -> bool:
    """Whether the columns are there without which a table says nothing."""
    missing = [column for column in NEEDED[label] if column not in frame]
    for column in missing:
        if any(problem.startswith(str(table.error(column, "missing"))) for problem in account.problems):
            continue
        problem = f"missing; add it, or say which column it is (there are {listed(table.columns)})"
        account.problem(table, column, problem)
    return not missing


def _stop_at(account: Account) -> None:
    if account.problems:
        raise ProblemsError(account.problems)


def _named(
    tables: Mapping[str, Table], columns: dict[str, str], kept: Mapping[str, Iterable[str]], account: Account
) -> dict[str, pd.DataFrame]:
    """The tables with their columns called as here: as is asked, and else where a usual name leaves no doubt.

    Those of `kept`, by table, are asked for by their own names, and are guessed to be nothing else.
    """
    there = {column for table in tables.values() for column in table.columns}
    account.problems += [
        f"column {short(own)} is to be called {short(ours)}, and no table has it (there are {listed(sorted(there))})"
        for own, ours in columns.items()
        if own not in there
    ]
    named = {}
    for label, table in tables.items():
        asked = {own: ours for own, ours in columns.items() if own in table.columns}
        guessed = {}
        wanted = ["user_id"] if label == "users" else [*OF_EVENTS, *MARKS[label]]
        taken = {*asked, *kept[label]}
        for ours in wanted:
            if ours in table.columns or ours in asked.values():
                continue
            own = [c for c in table.columns if c not in taken and _bare(c) in (_bare(ours), *USUAL[ours])]
            if len(own) == 1:
                guessed[own[0]] = ours
            elif len(own) > 1:
                account.problem(table, ours, f"missing, and {listed(own)} may each be it; say which")
        if guessed:
            pairs = ", ".join(f"{short(own)} for {ours}" for own, ours in guessed.items())
            account.said.append(f"{label}: column {pairs} (by their usual names)")
            asked |= guessed
        account.own_names |= {(table.label, ours): own for own, ours in asked.items()}
        frame = table.frame.rename(columns=asked)
        if twice := listed(frame.columns[frame.columns.duplicated()].unique()):
            account.problem(table, None, f"two columns would be called {twice}; rename or drop one of them")
            frame = frame.loc[:, ~frame.columns.duplicated()]
        named[label] = frame
    return named


def _bare(name: str) -> str:
    return str(name).casefold().replace("_", "").replace(" ", "")


def _of_surface(table: Table, frame: pd.DataFrame, label: str, account: Account) -> pd.DataFrame:
    """The rows of one surface, where a table says which each row is of."""
    if "surface" not in frame:
        return frame
    text = as_text(frame["surface"])
    searched = text.str.contains(SEARCHES, case=False, na=False)
    if label == "searches" and not searched.any():
        problem = f"no value begins with 'search' (there are {listed(text.dropna().unique())}); recode it"
        account.problem(table, "surface", problem)
    own = searched if label == "searches" else ~searched & text.notna()
    kinds = listed(text[own].unique())
    account.said.append(f"{label}: the {int(own.sum()):,} rows whose surface is {kinds}")
    account.tables[label]["read"] = int(own.sum())
    return frame[own].drop(columns="surface")


def _keys_are_exact(table: Table, frame: pd.DataFrame, account: Account) -> bool:
    """Whether no key is a float which may stand for several integers, before keys are made text; else noted."""
    before = len(account.problems)
    for column in frame.columns.intersection(["user_id", "category"]):
        if (row := first_rounded(frame[column])) is not None:
            found = short(frame[column].iloc[[row]].tolist()[0])
            account.problem(table, column, f"{ROUNDED_KEY} (found {found})", int(frame.index[row]))
    return len(account.problems) == before


def _keys(values: pd.Series) -> pd.Series:
    """Keys as text, whole numbers without a point, by which tables are held against each other."""
    codes, labels = as_codes(values)
    text = plain(labels).append(pd.Index([None], dtype="str"))
    found = pd.Series(text.take(codes), values.index, dtype="str").str.strip()
    return found.mask(found == "")


def _with_keys(frame: pd.DataFrame) -> pd.DataFrame:
    """A table with user ids that are text without spaces around them."""
    if pd.api.types.is_numeric_dtype(frame["user_id"]):
        return frame
    return frame.assign(user_id=_keys(frame["user_id"]))


def _users(
    table: Table, frame: pd.DataFrame, exposure: Sequence[str], preference: Sequence[str], account: Account
) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """The users' table with covariates as numbers, and these by block."""
    frame = _with_keys(frame)
    frame = account.only("users", frame, frame["user_id"].notna(), "no user_id")
    frame = account.only("users", frame, ~frame.astype("str").duplicated(), "a copy of another row")
    if (twice := _keys(frame["user_id"]).duplicated()).any():
        row = int(frame.index[twice][0])
        user = short(str(frame["user_id"][row]))
        account.problem(
            table, "user_id", f"{int(twice.sum()):,} users have rows that differ, e.g. {user}; keep one", row
        )
    made: dict[str, Any] = {}
    blocks: dict[str, list[str]] = {}
    for block, names in (("exposure_covariates", exposure), ("preference_covariates", preference)):
        blocks[block] = []
        for name in names:
            if name not in frame:
                account.problem(table, name, f"missing; there are {listed(frame.columns)}")
                continue
            try:
                columns, said = covariate(name, frame[name])
            except UnclearError as error:
                account.problem(table, name, str(error), _place(frame, error))
                continue
            if taken := [of for of in columns if of in made or (of != name and of in frame)]:
                account.problem(
                    table, name, f"there would be two columns {listed(taken)}; rename or list it once"
                )
            made |= columns
            blocks[block] += columns
            account.said += said
    return frame.assign(**made), blocks


def _place(frame: pd.DataFrame, error: UnclearError) -> int | None:
    """Row of the table as it was given."""
    return None if error.row is None else int(frame.index[error.row])


def _events(
    table: Table,
    label: str,
    frame: pd.DataFrame,
    known: pd.Series | None,
    timed: bool,
    outcomes: Sequence[str],
    account: Account,
) -> pd.DataFrame:
    """An event table whose columns hold what a dataset folder has, without rows that cannot be used."""
    for name in [name for name in outcomes if name not in frame]:
        account.problem(table, name, f"missing; there are {listed(frame.columns)}")
    frame = _with_keys(frame).assign(category=_keys(frame["category"]))
    if not timed:
        frame = frame.assign(timestamp=EARLIEST)
    of_marks = [*MARKS[label], *outcomes]
    for column, read in {"timestamp": moments, **dict.fromkeys(of_marks, marks)}.items():
        if column not in frame or (column == "timestamp" and not timed):
            continue
        try:
            values, how = read(frame[column])
        except UnclearError as error:
            account.problem(table, column, str(error), _place(frame, error))
            continue
        frame = frame.assign(**{column: values})
        if how:
            account.said.append(
                f"{label}: {column} is read as {how}" if read is moments else f"{label}, {column}: {how}"
            )
    users = _keys(frame["user_id"])
    frame = account.only(label, frame, users.notna(), "no user_id")
    if known is not None:
        there = users[frame.index].isin(known)
        if not there.all():  # integers that were saved as floats
            users = users.where(users.isin(known), users.str.replace(rf"^{WHOLE}$", r"\1", regex=True))
            frame = frame.assign(user_id=users[frame.index])
            there = frame["user_id"].isin(known)
        if len(frame) and len(known) and not there.any():
            here = short(users[frame.index[0]])
            problem = f"no user is one of the users' table ({here} here, {short(known.iloc[0])} there); name them alike"
            account.problem(table, "user_id", problem)
            return frame
        lost = users[frame.index][~there]
        other = None if lost.empty else like(str(lost.iloc[0]), known)
        alike = f" ({short(lost.iloc[0])} here, {short(other)} there)" if other else ""
        frame = account.only(label, frame, there, f"the user is not in the users' table{alike}")
    for name in [name for name in outcomes if name in frame and frame[name].isna().any()]:
        gaps = f"{int(frame[name].isna().sum()):,} rows say neither yes nor no"
        account.problem(table, name, f"{gaps}; an outcome is one of all that is shown: fill in what is meant")
    for column in ("category", "timestamp", *MARKS[label]):
        if column in frame:
            frame = account.only(label, frame, frame[column].notna(), f"no {column}")
    if account.problems:
        return frame
    whole = [column for column in ("timestamp", *of_marks) if column in frame]
    return frame.astype(dict.fromkeys(whole, "int64"))


def _merged(events: list[pd.DataFrame], top: int | None, account: Account) -> list[pd.DataFrame]:
    """Categories in one spelling, and the rare ones as one."""
    both = pd.concat([frame["category"] for frame in events], ignore_index=True)
    both, changed = one_spelling(both)
    if changed:
        account.said.append(f"category: {changed:,} events are given the most frequent spelling of theirs")
    surface = np.repeat(["search", "shown"], [len(frame) for frame in events])
    shares = pd.crosstab(both, surface, normalize="columns").mean(
        axis=1
    )  # a surface of many events is not all
    counts = shares.sort_values(ascending=False, kind="stable")
    if top is not None and len(counts) > top:
        rare = both.isin(counts.index[top:])
        both = both.mask(rare, REST)
        account.said.append(
            f"category: the {len(counts) - top:,} rarest of {len(counts):,}, with {percent(float(rare.mean()))} of the "
            f"events, are one, {REST!r}"
        )
    elif len(counts) > MANY_CATEGORIES:
        account.said.append(
            f"category: there are {len(counts):,}, with which a fit is costly; a coarser column, or top_categories, "
            "makes them fewer"
        )
    first = len(events[0])
    parts = both[:first], both[first:]
    return [frame.assign(category=own.array) for frame, own in zip(events, parts, strict=True)]


def _writable(frame: pd.DataFrame) -> pd.DataFrame:
    """Extra columns of mixed kinds as text, which every kind of file can hold."""
    mixed = [column for column in frame.columns if frame[column].dtype == object]
    return frame.astype(dict.fromkeys(mixed, "str")).reset_index(drop=True)
