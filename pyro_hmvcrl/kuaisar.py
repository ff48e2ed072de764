"""KuaiSAR's files to a dataset folder.

KuaiSAR (Sun et al. 2023, Zenodo record 8181109) holds the logs of one platform's search and one-column feed.
:func:`read_kuaisar` reads the zip or its folder by the columns' names and joins events with their items' categories;
every row that it leaves out is counted, with the reason.  :meth:`Kuaisar.write` makes a dataset folder of a stretch of
time, with the covariates below and the whole account in ``import.json``.

A search event is a result that the user clicked, a recommendation event an item that the feed delivered, engaged with
or not (``click``).

The covariates are those of ``covariates.py``, unless :meth:`Kuaisar.write` is given others.
"""

from __future__ import annotations

import csv
import io
import json
import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv
from numpy.typing import NDArray
from pandas import DataFrame
from tqdm.auto import tqdm

from pyro_hmvcrl.covariates import BEIJING, DAY, EXPOSURE, Covariate, preference_covariates
from pyro_hmvcrl.dataset import write_dataset

LEVELS = ("first", "second", "third", "fourth")  #: of KuaiSAR's category tree
MOST_CATEGORIES = 64  #: the others become one, as a decoder has weights for each
OTHER = "other"
USER_INPUT = "USER_INPUT"  #: the one source of queries that the user starts; the platform suggests the others
WITH_CATEGORY = ("VIDEO", "IMAGE_ATLAS")  #: types of search results that item_features describes
PADDING = ("", "0", "空", "empty")  #: stand for "no category"
BLOCK = 1 << 26  #: bytes that the parser takes at a time; captions are long

#: What reading a damaged zip raises; RuntimeError: it looks encrypted, or compressed in a way unknown here.
DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError, RuntimeError)

NUMBER, TEXT = pa.float64(), pa.string()
#: What is read of each file, by the columns' names: their order differs from the documentation's.
COLUMNS: dict[str, dict[str, pa.DataType]] = {
    "user_features.csv": {
        "user_id": NUMBER,
        "onehot_feat1": TEXT,
        "onehot_feat2": TEXT,
        "search_active_level": NUMBER,
        "rec_active_level": NUMBER,
    },
    "item_features.csv": {"item_id": NUMBER, "upload_time": TEXT, "upload_type": TEXT},
    "rec_inter.csv": {
        "user_id": NUMBER,
        "item_id": NUMBER,
        "duration_ms": pa.float32(),
        "timestamp": NUMBER,
        "click": pa.float32(),
    },
    "src_inter.csv": {
        "keyword": TEXT,
        "item_id": NUMBER,
        "click_cnt": pa.float32(),
        "search_session_id": TEXT,
        "item_type": TEXT,
        "user_id": NUMBER,
        "search_session_timestamp": NUMBER,
        "search_source": TEXT,
    },
    "social_network.csv": {"user_id": NUMBER, "user_follow_id": TEXT},
}
ALIASES = {"reco_active_level": "rec_active_level"}  #: seen in copies of the files
LATEST = 2**43  #: ms since epoch: the year 2248, to which calendars here reach
QUERY = ["user", "time", "session", "keyword", "source"]  #: what tells one query from another


class KuaisarError(ValueError):
    """Files that cannot be imported: the message names file, column, row and the mend."""


@dataclass
class Account:
    """Rows read of each file, and those left out by reason."""

    read: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)

    def keep(self, file: str, frame: DataFrame, good: NDArray[np.bool_], reason: str) -> DataFrame:
        """The good rows; the others are counted under `reason`."""
        lost = len(frame) - int(good.sum())
        if lost:
            reasons = self.dropped.setdefault(file, {})
            reasons[reason] = reasons.get(reason, 0) + lost
        return frame[good] if lost else frame

    def to_dict(self) -> dict[str, Any]:
        """A file each: rows read, kept, and dropped by reason."""
        files = {}
        for file, read in self.read.items():
            dropped = self.dropped.get(file, {})
            files[file] = {"read": read, "kept": read - sum(dropped.values()), "dropped": dropped}
        return files


@dataclass(frozen=True, eq=False)
class Kuaisar:
    """What was read, cleaned and joined.

    Attributes
    ----------
    users
        A row a user: user_id, onehot_feat1, onehot_feat2, search_active_level, rec_active_level, follows.
    categories
        Names of the categories that `category` below counts.
    deliveries
        A row an item that the feed delivered: user (position among `users`), time (ms since epoch), category,
        engaged (0/1), item, duration (s), age (days since upload), upload_type; NaN and -1 where it is not known.
    searches
        A row a clicked result: user, time, category.
    queries
        A row a query: user, time, keyword, user_input (whether the user started it).
    account
        Rows read and left out.
    about
        How it was read, for ``import.json``.
    truth
        ``truth.npz`` of a generated copy.
    """

    users: DataFrame
    categories: list[str]
    deliveries: DataFrame
    searches: DataFrame
    queries: DataFrame
    account: Account
    about: dict[str, Any]
    truth: bytes | None = None

    @property
    def window(self) -> tuple[int, int]:
        """First and last moment of any event, ms since epoch."""
        times = [frame["time"] for frame in (self.deliveries, self.searches, self.queries)]
        return min(int(t.min()) for t in times), max(int(t.max()) for t in times)

    @property
    def days(self) -> float:
        """Length of the window."""
        first, last = self.window
        return max((last - first) / DAY, 1.0)

    def between(self, since: str | int | None = None, until: str | int | None = None) -> Kuaisar:
        """The events from `since` on and before `until`: Beijing times as text, or ms since epoch.

        Raises
        ------
        KuaisarError
            If a time cannot be read, or nothing is left of a surface.
        """
        first, end = (moment(t) for t in (since, until))

        def part(frame: DataFrame) -> DataFrame:
            time = frame["time"].to_numpy()
            inside = np.ones(len(time), bool) if first is None else time >= first
            return frame[inside & (time < end)] if end is not None else frame[inside]

        parts = {name: part(getattr(self, name)) for name in ("deliveries", "searches", "queries")}
        for name in ("deliveries", "searches"):
            if parts[name].empty:
                stretch = " to ".join(_beijing(t) for t in self.window)
                raise KuaisarError(f"no {name} between {since} and {until}: the logs run from {stretch}")
        return replace(self, **parts)

    def write(
        self,
        out: Path,
        exposure: Sequence[Covariate] | None = None,
        preference: Sequence[Covariate] | None = None,
        min_events: int = 10,
    ) -> dict[str, Any]:
        """Write a dataset folder with ``import.json`` in it, whole or not at all; returns that account.

        Parameters
        ----------
        out
            Must not exist yet.
        exposure, preference
            Covariates of the two blocks, in place of `EXPOSURE` and :func:`preference_covariates`.
        min_events
            Users with fewer events on both surfaces together are left out.

        Raises
        ------
        DatasetError
            If nothing is left, or `out` exists.
        KuaisarError
            If a covariate is out of all proportion.
        """
        blocks = {
            "exposure": EXPOSURE if exposure is None else exposure,
            "preference": preference_covariates(self) if preference is None else preference,
        }
        surfaces = (self.deliveries, self.searches)
        n_events = sum(np.bincount(s["user"], minlength=len(self.users)) for s in surfaces)
        kept = np.flatnonzero(n_events >= max(min_events, 1))
        users, described = self._covariates(blocks, kept)
        place = np.full(len(self.users), -1)
        place[kept] = np.arange(len(kept))
        deliveries, searches = (self._events(s, users["user_id"].to_numpy(), place) for s in surfaces)
        account = self.about | {
            "window": [_beijing(t) for t in self.window],
            "files": self.account.to_dict(),
            "users": {"read": len(self.users), "kept": len(kept), "least_events": min_events},
            "search_events": len(searches),
            "recommendation_events": len(deliveries),
            "covariates": described,
        }
        extra = {"import.json": json.dumps(account, indent=2, ensure_ascii=False).encode()}
        write_dataset(
            out,
            name="generated copy of KuaiSAR" if self.truth else "KuaiSAR",
            users=users,
            search_events=searches,
            recommendation_events=deliveries,
            exposure_covariates=[c["name"] for c in described if c["block"] == "exposure"],
            preference_covariates=[c["name"] for c in described if c["block"] == "preference"],
            extra_files=extra | ({"truth.npz": self.truth} if self.truth else {}),
            categories=self.categories,
        )
        return account

    def _covariates(
        self, blocks: dict[str, Sequence[Covariate]], kept: NDArray[np.intp]
    ) -> tuple[DataFrame, list[dict[str, Any]]]:
        """The users' table, and what each column is; a covariate that is the same for all users is left out."""
        users, described = {"user_id": self.users["user_id"].to_numpy()[kept]}, list[dict[str, Any]]()
        for block, covariates in blocks.items():
            for c in covariates:
                values = c.of(self)[kept]
                missing = ~np.isfinite(values)
                values = np.where(missing, np.median(values[~missing]) if not missing.all() else 0.0, values)
                with np.errstate(over="ignore"):
                    spread = np.var(values) if len(values) else 0.0
                if not np.isfinite(spread):
                    far = np.abs(values).argmax()
                    raise KuaisarError(
                        f"{self.about['source']}: {c.name} ({c.definition}) is {values[far]:g} for user "
                        f"{users['user_id'][far]}; mend or leave out that user's rows"
                    )
                if len(values) and values.min() < values.max():
                    users[c.name] = values
                    described.append(
                        {"name": c.name, "block": block, "definition": c.definition, "why": c.why}
                    )
                    described[-1]["users_given_the_median"] = int(missing.sum())
        return DataFrame(users), described

    def _events(self, surface: DataFrame, user_id: NDArray[np.int64], place: NDArray[np.intp]) -> DataFrame:
        """Events of the users who are kept, as a dataset folder has them."""
        position = place[surface["user"]]
        of_kept = surface[position >= 0]
        columns: dict[str, Any] = {
            "user_id": user_id[position[position >= 0]],
            "timestamp": of_kept["time"].to_numpy(),
            "category": pd.Categorical.from_codes(of_kept["category"].to_numpy(), categories=self.categories),
        }
        if "engaged" in surface:
            columns["engaged"] = of_kept["engaged"].to_numpy()
        return DataFrame(columns)


# --- Reading -------------------------------------------------------------------------------------------------


def read_kuaisar(
    source: str | Path, level: str = "first", suggested: bool = False, progress: bool = False
) -> Kuaisar:
    """Read KuaiSAR's files, of the small or the full release.

    Parameters
    ----------
    source
        The zip, or a folder that holds the files (at any depth).
    level
        Of the category tree: "first" (about 40 categories) to "fourth".  The `MOST_CATEGORIES` commonest stay.
    suggested
        Also take searches for queries that the platform suggested, not the user's own (``USER_INPUT``) alone.

    Raises
    ------
    KuaisarError
        If a file or a column is missing, a file is cut off, or a value is not what its column holds.
    """
    if level not in LEVELS:
        raise KuaisarError(f"level is {level!r}: choose of {', '.join(LEVELS)}")
    files, account = _Files(Path(source)), Account()
    tree = [f"{level}_level_category_{part}" for part in ("id", "name", "name_en")]
    users = _read_users(files, account, progress)
    items = _read_items(files, account, tree, progress)
    deliveries = _read_deliveries(files, account, users, items, progress)
    searches, queries = _read_searches(files, account, users, items, suggested, progress)
    categories, code = _commonest(items["category"], [deliveries["category"], searches["category"]])
    about = {"source": files.path.name, "category_level": level, "categories": len(categories)}
    truth = files.truth
    about |= {"queries": "all" if suggested else "typed in by the user", "generated": truth is not None}
    return Kuaisar(
        users,
        categories,
        deliveries.assign(category=code[deliveries["category"]]),
        searches.assign(category=code[searches["category"]]),
        queries,
        account,
        about,
        truth,
    )


def _read_users(files: _Files, account: Account, progress: bool) -> DataFrame:
    file = "user_features.csv"
    users = files.read(file, COLUMNS[file], account, progress)
    users = account.keep(file, users, users.notna().all(axis=1).to_numpy(), "a value is missing")
    users = account.keep(file, users, ~users["user_id"].duplicated().to_numpy(), "the user has a row already")
    files.check(file, users, "user_id", _whole(users["user_id"]), "not a whole number")
    users = users.assign(user_id=users["user_id"].astype("int64")).reset_index(drop=True)
    if users.empty:
        raise KuaisarError(f"{files.label(file)}: no users; download the archive again")
    file = "social_network.csv"
    ties = files.read(file, COLUMNS[file], account, progress)
    ties = _of_known_users(account, file, ties, users)
    n_named = ties["user_follow_id"].astype("object").fillna("").astype(str).str.count(r"\d+").to_numpy(float)
    return users.assign(follows=np.bincount(ties["user"], n_named, minlength=len(users)))


def _read_items(files: _Files, account: Account, tree: list[str], progress: bool) -> DataFrame:
    """item_id, category (code; -1: none), upload_day (days since epoch, NaN), upload_type (code)."""
    file = "item_features.csv"
    columns = COLUMNS[file] | dict.fromkeys(tree, TEXT)
    items = files.read(file, columns, account, progress, optional=tree[1:])
    items = account.keep(file, items, items["item_id"].notna().to_numpy(), "item_id is missing")
    items = account.keep(file, items, ~items["item_id"].duplicated().to_numpy(), "the item has a row already")
    date = items["upload_time"].cat.categories.str.split(" ").str[0]
    day = (pd.to_datetime(date, errors="coerce", format="%Y-%m-%d") - pd.Timestamp(0)).days.to_numpy(float)
    day = np.append(np.where(day > 0, day, np.nan), np.nan)  # 1970-01-01 is padding
    category, names = _category_names(items, tree)
    found = DataFrame(
        {
            "item_id": items["item_id"].to_numpy(),
            "category": pd.Categorical.from_codes(category, categories=names),
            "upload_day": day[items["upload_time"].cat.codes],
            "upload_type": items["upload_type"].cat.codes.to_numpy(),
        }
    )
    return found.reset_index(drop=True)


def _category_names(items: DataFrame, tree: list[str]) -> tuple[NDArray[np.intp], list[str]]:
    """Each item's code, -1 where it has no category, and the categories' names: in English where there are."""
    ids = items[tree[0]].cat
    distinct = items[[t for t in tree if t in items]].drop_duplicates(tree[0]).dropna(subset=[tree[0]])
    named = distinct.set_index(tree[0]).astype("object").reindex(ids.categories).fillna("")
    names: list[str] = []
    for key, row in zip(named.index, named.to_numpy(), strict=True):
        words = [word for word in (*row[::-1], str(key)) if word not in PADDING]
        name = words[0] if words and str(key) not in PADDING else ""
        while name and name in names:
            name = f"{name} ({key})"
        names.append(name)
    code = np.full(len(names) + 1, -1)
    real = [i for i, name in enumerate(names) if name]
    code[real] = np.arange(len(real))
    return code[ids.codes], [names[i] for i in real]


def _read_deliveries(
    files: _Files, account: Account, users: DataFrame, items: DataFrame, progress: bool
) -> DataFrame:
    file = "rec_inter.csv"
    rows = files.read(file, COLUMNS[file], account, progress)
    needed = ["user_id", "item_id", "timestamp", "click"]
    rows = account.keep(file, rows, rows[needed].notna().all(axis=1).to_numpy(), "a value is missing")
    files.check(file, rows, "click", rows["click"].isin((0, 1)).to_numpy(), "neither 0 nor 1")
    files.check(file, rows, "timestamp", _moments(rows["timestamp"]), "no time in ms since 1970")
    rows = _with_category(account, file, _of_known_users(account, file, rows, users), items)
    rows = account.keep(file, rows, ~(rows["duration_ms"].to_numpy() < 0), "duration_ms is negative")
    clicked_first = np.argsort(rows["click"].to_numpy() == 0, kind="stable")  # so that it stays, of copies
    rows = rows.iloc[clicked_first]
    again = rows.duplicated(["user", "item", "timestamp"]).to_numpy()
    rows = account.keep(file, rows, ~again, "the row stands there already")
    if rows.empty:
        raise KuaisarError(
            f"{files.label(file)}: no row is left ({account.dropped.get(file, 'the file is empty')}); "
            "give one release of KuaiSAR, whole"
        )
    item, time = rows["item"].to_numpy(), rows["timestamp"].to_numpy().astype("int64")
    duration = rows["duration_ms"].to_numpy() / 1_000
    age = np.maximum((time + BEIJING) // DAY - items["upload_day"].to_numpy()[item], 0)
    return DataFrame(
        {
            "user": rows["user"].to_numpy(),
            "time": time,
            "category": items["category"].cat.codes.to_numpy()[item],
            "engaged": rows["click"].to_numpy().astype("int8"),
            "item": item,
            "duration": np.where(duration > 0, duration, np.nan).astype("float32"),
            "age": age.astype("float32"),
            "upload_type": items["upload_type"].to_numpy()[item],
        }
    )


def _read_searches(
    files: _Files, account: Account, users: DataFrame, items: DataFrame, suggested: bool, progress: bool
) -> tuple[DataFrame, DataFrame]:
    """Clicked results, and queries.  A query is what shares user, time, session, keyword and source."""
    file = "src_inter.csv"
    rows = files.read(file, COLUMNS[file], account, progress)
    needed = ["user_id", "search_session_timestamp", "click_cnt", "keyword", "search_source"]
    rows = account.keep(file, rows, rows[needed].notna().all(axis=1).to_numpy(), "a value is missing")
    column = "search_session_timestamp"
    files.check(file, rows, column, _moments(rows[column]), "no time in ms since 1970")
    whole = rows["keyword"].cat.categories.str.fullmatch(r"\s*\[.*\]\s*").astype(bool)
    rows = account.keep(file, rows, whole[rows["keyword"].cat.codes], "keyword is not a list")
    rows = _of_known_users(account, file, rows, users)
    own = rows["search_source"].cat.codes.to_numpy() == _code(rows["search_source"], USER_INPUT)
    rows = DataFrame(
        {
            "user": rows["user"].to_numpy(),
            "time": rows["search_session_timestamp"].to_numpy().astype("int64"),
            "session": rows["search_session_id"].cat.codes.to_numpy(),
            "keyword": rows["keyword"].cat.codes.to_numpy(),
            "source": rows["search_source"].cat.codes.to_numpy(),
            "user_input": own,
            "item_id": rows["item_id"].to_numpy(),
            "clicked": rows["click_cnt"].to_numpy() > 0,
            "described": rows["item_type"].isin(WITH_CATEGORY).to_numpy(),
        }
    )
    queries = rows[[*QUERY, "user_input"]].drop_duplicates()[["user", "time", "keyword", "user_input"]]
    rows = account.keep(file, rows, rows["clicked"].to_numpy(), "not clicked")
    if not suggested:
        rows = account.keep(file, rows, rows["user_input"].to_numpy(), "the platform suggested the query")
    rows = account.keep(file, rows, rows["described"].to_numpy(), "of a type that has no category")
    rows = _with_category(account, file, rows, items)
    again = rows.duplicated([*QUERY, "item"]).to_numpy()
    rows = account.keep(file, rows, ~again, "the result stands there already")
    if rows.empty:
        raise KuaisarError(
            f"{files.label(file)}: no clicked result is left ({account.dropped.get(file, 'the file is empty')}); "
            "give one release of KuaiSAR, whole"
        )
    category = items["category"].cat.codes.to_numpy()[rows["item"]]
    searches = DataFrame(
        {"user": rows["user"].to_numpy(), "time": rows["time"].to_numpy(), "category": category}
    )
    return searches, queries.reset_index(drop=True)


def _of_known_users(account: Account, file: str, rows: DataFrame, users: DataFrame) -> DataFrame:
    """Rows whose user is known, with the position `user`."""
    user = pd.Index(users["user_id"]).get_indexer(rows["user_id"])
    return account.keep(file, rows.assign(user=user), user >= 0, "the user is not in user_features.csv")


def _with_category(account: Account, file: str, rows: DataFrame, items: DataFrame) -> DataFrame:
    """Rows whose item has a category, with the position `item`."""
    item = pd.Index(items["item_id"]).get_indexer(rows["item_id"])
    rows = account.keep(file, rows.assign(item=item), item >= 0, "the item is not in item_features.csv")
    has_category = items["category"].cat.codes.to_numpy()[rows["item"]] >= 0
    return account.keep(file, rows, has_category, "the item has no category at this level")


def _whole(values: pd.Series) -> NDArray[np.bool_]:
    """Which of these are whole numbers, held to the last digit."""
    numbers = values.to_numpy(float)
    return (np.abs(numbers) < 2**53) & (numbers == np.floor(numbers))


def _moments(values: pd.Series) -> NDArray[np.bool_]:
    return (values >= 0).to_numpy() & (values < LATEST).to_numpy()


def _code(values: pd.Series, label: str) -> int:
    return int(values.cat.categories.get_indexer([label])[0])


def _commonest(category: pd.Series, events: list[pd.Series]) -> tuple[list[str], NDArray[np.intp]]:
    """Names of the categories that stay, and the new code of each old one."""
    names = category.cat.categories.tolist()
    counts = sum(np.bincount(codes, minlength=len(names)) for codes in events)
    order = np.argsort(-counts, kind="stable")
    many = len(names) > MOST_CATEGORIES
    stay = np.array(
        sorted(order[: MOST_CATEGORIES - 1] if many else np.flatnonzero(counts), key=names.__getitem__)
    )
    code = np.full(len(names), len(stay))
    code[stay] = np.arange(len(stay))
    other = OTHER
    while other in names:  # a category may be called that
        other = f"{other} ({OTHER})"
    return [names[i] for i in stay] + [other] * many, code


# --- Files ---------------------------------------------------------------------------------------------------


class _Files:
    """The files of a zip or a folder, found by name at any depth."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            raise KuaisarError(
                f"{path}: no such file or folder; give KuaiSAR's zip, or the folder of its files"
            )
        names = [*COLUMNS, "truth.npz"]
        if path.is_dir():
            there = [p for p in sorted(path.rglob("*")) if p.name in names and p.is_file()]
            self.sizes = {str(p): p.stat().st_size for p in there}
        else:
            with self._archive() as archive:
                self.sizes = {i.filename: i.file_size for i in archive.infolist() if not i.is_dir()}
        self.found = {name: [p for p in self.sizes if Path(p).name == name] for name in names}
        for name in COLUMNS:
            if len(self.found[name]) != 1:
                problem = "not there" if not self.found[name] else f"there {len(self.found[name])} times"
                raise KuaisarError(f"{path}: {name} is {problem}; give one release of KuaiSAR, whole")

    @property
    def truth(self) -> bytes | None:
        """Of a generated copy."""
        if not self.found["truth.npz"]:
            return None
        with self._open("truth.npz") as handle:
            return handle.read()

    def label(self, name: str) -> str:
        """How errors name a file."""
        return f"{self.path}, {name}"

    def read(
        self,
        name: str,
        columns: dict[str, pa.DataType],
        account: Account,
        progress: bool,
        optional: Sequence[str] = (),
    ) -> DataFrame:
        """Some columns of a file; text comes as categories.

        Raises
        ------
        KuaisarError
            If a column is missing, or a row cannot be read.
        """
        with self._rows(name) as rows:
            header = next(rows, [])
        known = [ALIASES.get(column.strip(), column.strip()) for column in header]
        wanted = {c: t for c, t in columns.items() if c in known or c not in optional}
        for column in wanted:
            if column not in known:
                there = ", ".join(known) or "nothing"
                raise KuaisarError(f"{self.label(name)}: no column {column!r}; its first line has {there}")
        types = {c: pa.dictionary(pa.int32(), t) if t == TEXT else t for c, t in wanted.items()}
        bar = {"desc": name, "disable": not progress, "leave": False}
        try:
            with (
                self._open(name) as handle,
                tqdm.wrapattr(handle, "read", self.sizes[self.found[name][0]], **bar) as counted,
                pa.PythonFile(counted, mode="r") as file,
            ):
                table = pacsv.read_csv(
                    file,
                    pacsv.ReadOptions(block_size=BLOCK, column_names=known, skip_rows=1),
                    pacsv.ParseOptions(newlines_in_values=name == "item_features.csv"),
                    pacsv.ConvertOptions(
                        include_columns=list(wanted), column_types=types, strings_can_be_null=True
                    ),
                )
        except pa.ArrowException as error:
            place = self._place(name, known, wanted) or f": {error}; get the file again"
            raise KuaisarError(f"{self.label(name)}{place}") from None
        account.read[name] = len(table)
        return table.unify_dictionaries().to_pandas(strings_to_categorical=True, self_destruct=True)

    def check(self, name: str, rows: DataFrame, column: str, good: NDArray[np.bool_], problem: str) -> None:
        """Raise for the first row that is not good; the frame's index counts the rows of the file."""
        bad = np.flatnonzero(~good)
        if len(bad):
            row, value = rows.index[bad[0]] + 1, rows[column].iloc[bad[0]]
            raise KuaisarError(
                f"{self.label(name)}, column {column!r}, row {row}: {value} is {problem}; correct it"
            )

    def _place(self, name: str, known: list[str], wanted: dict[str, pa.DataType]) -> str:
        """Where a file cannot be read: a slow second look, for the message."""
        numbers = [(known.index(c), c) for c, t in wanted.items() if t != TEXT]
        with self._rows(name) as rows:
            next(rows)
            for n, row in enumerate(rows, 1):
                if row and len(row) != len(known):
                    return f", row {n}: {len(row)} values for {len(known)} columns; get the file again"
                for at, column in numbers:
                    if row and row[at] and not _is_number(row[at]):
                        return f", column {column!r}, row {n}: {row[at]!r} is not a number; correct it"
        return ""

    @contextmanager
    def _rows(self, name: str) -> Iterator[Iterator[list[str]]]:
        csv.field_size_limit(2**31 - 1)
        with self._open(name) as handle, io.TextIOWrapper(handle, "utf-8-sig", "replace", "") as text:
            try:
                yield csv.reader(text)
            except csv.Error as error:
                raise KuaisarError(f"{self.label(name)}: {error}; get the file again") from None

    @contextmanager
    def _open(self, name: str) -> Iterator[IO[bytes]]:
        path = self.found[name][0]
        if self.path.is_dir():
            with Path(path).open("rb") as handle:
                yield handle
            return
        try:
            with self._archive() as archive, archive.open(path) as member:
                yield member
        except DAMAGE as error:
            raise KuaisarError(f"{self.label(name)}: damaged ({error}); download the archive again") from None

    def _archive(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except (*DAMAGE, ValueError):  # the latter: a name that is no text
            raise KuaisarError(f"{self.path}: not a zip, or cut off; download it again") from None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def moment(time: str | int | None) -> int | None:
    """Beijing time as text, to ms since epoch.

    Raises
    ------
    KuaisarError
        If the text is not a time.

    Examples
    --------
    >>> moment("1970-01-01 08:00:01")
    1000
    """
    if time is None or isinstance(time, int):
        return time
    try:
        stamp = pd.Timestamp(time)
        if pd.isna(stamp):
            raise ValueError
        return int(stamp.value // 1_000_000) - BEIJING
    except (ValueError, OverflowError):
        raise KuaisarError(f"{time!r} is not a time: write it like 2023-05-22 or 2023-05-22 14:30") from None


def _beijing(time: int) -> str:
    return str(pd.Timestamp(time + BEIJING, unit="ms").floor("s"))
