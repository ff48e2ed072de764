"""From KuaiSAR's files to logs: events joined with their items' categories, every row that is left out counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas import DataFrame

from pyro_hmvcrl.data.names import short
from pyro_hmvcrl.data.periods import EARLIEST, latest, likely_unit
from pyro_hmvcrl.kuaisar.clock import BEIJING, DAY
from pyro_hmvcrl.kuaisar.files import COLUMNS, FEEDBACK, TEXT, Account, Files, KuaisarError
from pyro_hmvcrl.kuaisar.logs import Kuaisar

LEVELS = ("first", "second", "third", "fourth")  #: of KuaiSAR's category tree
MOST_CATEGORIES = 1_000  #: the others become one, as a fit goes through all of them in every period
OTHER = "other"
USER_INPUT = "USER_INPUT"  #: the one source of queries that the user starts; the platform suggests the others
WITH_CATEGORY = ("VIDEO", "IMAGE_ATLAS")  #: types of search results that item_features describes
PADDING = ("", "0", "空", "empty")  #: stand for "no category"
LIST = r"\s*\[?[\d\s.,;|\"']*\]?\s*"  #: of ids
QUERY = ["user", "time", "session", "keyword", "source"]  #: what tells one query from another


def read_kuaisar(source: str | Path, level: str = "first", progress: bool = False) -> Kuaisar:
    """Read KuaiSAR's files, of the small or the full release.

    Parameters
    ----------
    source
        The zip, or a folder that holds the files (at any depth).
    level
        Of the category tree: "first" (about 40 categories) to "fourth".  The `MOST_CATEGORIES` commonest stay.

    Raises
    ------
    KuaisarError
        If a file or a column is missing, a file is cut off, or a value is not what its column holds.
    """
    if level not in LEVELS:
        raise KuaisarError(f"level is {level!r}: choose of {', '.join(LEVELS)}")
    files, account = Files(Path(source)), Account()
    tree = [f"{level}_level_category_{part}" for part in ("id", "name", "name_en")]
    users = _read_users(files, account, progress)
    items = _read_items(files, account, tree, progress)
    deliveries = _read_deliveries(files, account, users, items, progress)
    searches, queries = _read_searches(files, account, users, items, progress)
    categories, code = _commonest(items["category"], [deliveries["category"], searches["category"]])
    about = {"source": files.path.name, "category_level": level, "categories": len(categories)}
    truth = files.truth
    about |= {"generated": truth is not None}
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


def _read_users(files: Files, account: Account, progress: bool) -> DataFrame:
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
    follows = ties["user_follow_id"].cat
    names = follows.categories.astype("str")
    account.without(
        file, "user_follow_id", _without(ties["user_follow_id"], ~names.str.fullmatch(LIST), "no list")
    )
    number = np.append(names.str.count(r"\d+(?:\.0)?"), 0.0)
    n_named = number[follows.codes]
    return users.assign(follows=np.bincount(ties["user"], n_named, minlength=len(users)))


def _read_items(files: Files, account: Account, tree: list[str], progress: bool) -> DataFrame:
    """item_id, category (code; -1: none), upload_day (days since epoch, NaN), upload_type (code)."""
    file = "item_features.csv"
    columns = COLUMNS[file] | dict.fromkeys(tree, TEXT)
    items = files.read(file, columns, account, progress, optional=tree[1:])
    items = account.keep(file, items, items["item_id"].notna().to_numpy(), "item_id is missing")
    items = account.keep(file, items, ~items["item_id"].duplicated().to_numpy(), "the item has a row already")
    written = items["upload_time"].cat.categories.astype("str").str.strip()
    date = written.str.replace(r"[ T].*", "", regex=True)
    day = (pd.to_datetime(date, errors="coerce", format="%Y-%m-%d") - pd.Timestamp(0)).days.to_numpy(float)
    account.without(
        file, "upload_time", _without(items["upload_time"], np.isnan(day), "no date like 2023-05-22")
    )
    padded = np.append(day <= 0, False)[items["upload_time"].cat.codes]
    account.without(file, "upload_time", {"is 1970-01-01 or earlier, which stands for none": padded})
    account.without(file, "upload_type", _without(items["upload_type"]))
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
        words = [word for word in (*row[::-1], str(key)) if not _is_padding(word)]
        name = words[0] if words and not _is_padding(str(key)) else ""
        while name and name in names:
            name = f"{name} ({key})"
        names.append(name)
    code = np.full(len(names) + 1, -1)
    real = [i for i, name in enumerate(names) if name]
    code[real] = np.arange(len(real))
    return code[ids.codes], [names[i] for i in real]


def _is_padding(word: str) -> bool:
    return word.strip().casefold().removesuffix(".0") in PADDING


def _read_deliveries(
    files: Files, account: Account, users: DataFrame, items: DataFrame, progress: bool
) -> DataFrame:
    file = "rec_inter.csv"
    rows = files.read(file, COLUMNS[file], account, progress, optional=FEEDBACK)
    feedback = [name for name in FEEDBACK if name in rows]
    needed = ["user_id", "item_id", "timestamp", "click"]
    rows = account.keep(file, rows, rows[needed].notna().all(axis=1).to_numpy(), "a value is missing")
    files.check(file, rows, "click", rows["click"].isin((0, 1)).to_numpy(), "neither 0 nor 1")
    for name in feedback:
        files.check(
            file, rows, name, (rows[name].isin((0, 1)) | rows[name].isna()).to_numpy(), "neither 0 nor 1"
        )
    rows = _of_today(files, account, file, rows, "timestamp")
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
    account.without(file, "duration_ms", {"is missing": np.isnan(duration), "is 0": duration == 0})
    for name in feedback:
        account.without(file, name, {"is missing, which is taken for 0": rows[name].isna().to_numpy()})
    age = (time + BEIJING) // DAY - items["upload_day"].to_numpy()[item]
    account.without(
        file, "age", {"is negative: the item is uploaded later": age < -1}
    )  # a day may be another zone's
    age = np.where(age < -1, np.nan, np.maximum(age, 0))
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
        | {name: rows[name].fillna(0).to_numpy().astype("int8") for name in feedback}
    )


def _read_searches(
    files: Files, account: Account, users: DataFrame, items: DataFrame, progress: bool
) -> tuple[DataFrame, DataFrame]:
    """Clicked results, and queries; those that the platform suggested are marked.

    A query is what shares user, time, session, keyword and source.
    """
    file = "src_inter.csv"
    rows = files.read(file, COLUMNS[file], account, progress)
    needed = ["user_id", "search_session_timestamp", "click_cnt", "keyword", "search_source"]
    rows = account.keep(file, rows, rows[needed].notna().all(axis=1).to_numpy(), "a value is missing")
    column = "search_session_timestamp"
    rows = _of_today(files, account, file, rows, column)
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
        {
            "user": rows["user"].to_numpy(),
            "time": rows["time"].to_numpy(),
            "category": category,
            "suggested": (~rows["user_input"].to_numpy()).astype("int8"),
        }
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


def _without(
    values: pd.Series, unread: NDArray[np.bool_] | None = None, problem: str = ""
) -> dict[str, NDArray[np.bool_]]:
    """Rows of a categorical column that have no value, and those of the categories that cannot be read, by reason."""
    codes = values.cat.codes.to_numpy()
    reasons = {"is missing": codes < 0}
    if unread is not None and np.any(unread):
        bad = np.append(unread, False)[codes]
        reasons[f"is {problem}, e.g. {short(str(values[bad].iloc[0]))}" if bad.any() else problem] = bad
    return reasons


def _of_today(files: Files, account: Account, file: str, rows: DataFrame, column: str) -> DataFrame:
    """Rows at times that logs of today have; if few have them, the unit is another one."""
    times = rows[column].to_numpy()
    good = (times >= EARLIEST) & (times < latest())
    if len(rows) and good.mean() < 0.5:
        first = times[~good][0]
        likely = likely_unit(int(np.clip(first, -(2.0**62), 2.0**62)))
        problem = "no time in ms since 1970 of these years"
        files.check(file, rows, column, good, f"in {likely[0]}: {likely[1]}" if likely else problem)
    return account.keep(file, rows, good, f"{column} is before 2010 or after next year")


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
