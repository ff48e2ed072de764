"""Claims about a company's own tables: what is read, what is said of it, and what is refused, all at once."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pandas as pd
import pytest
from company import company
from folders import content

from pyro_hmvcrl.data import DatasetError, from_frames, import_files, importing, read_dataset
from pyro_hmvcrl.data.frames import ProblemsError
from pyro_hmvcrl.data.values import UnclearError, covariate, marks, moments

DAY = np.datetime64("2024-03-22T10:00:00", "ms").astype(np.int64)
WHEN = [DAY, DAY + 3_600_000, DAY + 86_400_000]
ISO = ["2024-03-22T10:00:00Z", "2024-03-22T12:00:00+01:00", "2024-03-23 10:00"]
BLOCKS = {"exposure": ["feed", "age"], "preference": ["wish"]}


def tables(**changes):
    """Users, searches and recommendations that are right, but for these."""
    parts = content()
    frames = {
        "users": parts["users"],
        "searches": parts["search_events"],
        "recommendations": parts["recommendation_events"],
    }
    return {label: changes.get(label, lambda frame: frame)(frame) for label, frame in frames.items()}


def said_of(**options) -> str:
    return "\n".join(from_frames(**options).remarks)


def test_what_is_right_already_is_taken_as_it_is():
    parts = tables()
    dataset = from_frames(**parts, **BLOCKS)
    assert dataset.remarks[:1] != ()
    assert dataset.n_users == len(parts["users"])
    assert dataset.engagement.sum() == parts["recommendations"]["engaged"].sum()
    assert (dataset.users["country"] == parts["users"]["country"]).all()


@pytest.mark.parametrize(
    ("column", "how"),
    [
        (pd.Series(WHEN), "milliseconds"),
        (pd.Series(WHEN) // 1000, "seconds"),
        (pd.Series(WHEN) / 1000, "seconds"),
        (pd.Series(WHEN) * 1000, "microseconds"),
        (pd.Series(WHEN) * 1_000_000, "nanoseconds"),
        (pd.Series(WHEN).astype("str"), "milliseconds"),
        (pd.Series(ISO), "ISO dates"),
        (pd.to_datetime(pd.Series(WHEN), unit="ms"), "dates"),
        (
            pd.to_datetime(pd.Series(WHEN), unit="ms").dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo"),
            "dates",
        ),
        (pd.Series(["22/03/2024 10:00", "22.03.2024 11:00", "23/03/2024 10:00"]), "day first"),
        (pd.Series(["03/22/2024 10:00", "03/22/2024 11:00", "03/23/2024 10:00"]), "month first"),
    ],
    ids=str,
)
def test_moments_of_every_kind_and_unit_are_the_same(column, how):
    found, words = moments(column)
    assert how in words
    assert found.tolist() == WHEN


def test_days_and_gaps():
    found, words = moments(pd.Series([20240322, 20240323, None]))
    assert "YYYYMMDD" in words
    assert np.diff(found)[0] == 86_400_000
    assert np.isnan(found[2])


@pytest.mark.parametrize(
    ("column", "problem", "row"),
    [
        (["01/02/2024", "03/04/2024"], "day or the month", None),
        (["22/03/2024", "03/22/2024"], "with the month first", None),
        (["2024-03-22", "soon"], "no moment (found 'soon')", 1),
        ([1, 2, 3], "neither dates nor seconds", None),
    ],
)
def test_moments_that_may_mean_several_things_are_refused(column, problem, row):
    with pytest.raises(UnclearError) as refused:
        moments(pd.Series(column))
    assert problem in str(refused.value)
    assert refused.value.row == row


@pytest.mark.parametrize("word", ["now", "today", "10:30", "12:30:15", "Monday", "May 5"])
def test_moments_of_no_year_are_refused(word):
    with pytest.raises(UnclearError, match="no moment"):
        moments(pd.Series(["2023-05-22T10:00:00Z", word]))


def test_dates_of_two_digits_a_year_are_read_as_others_are():
    assert moments(pd.Series(["05/06/23", "28/06/23"]))[1].startswith("dates, day first")
    with pytest.raises(UnclearError, match="whether the day or the month is first"):
        moments(pd.Series(["05/06/23", "07/06/23"]))


def test_moments_in_single_precision_are_refused():
    with pytest.raises(UnclearError, match="float32 holds no moment"):
        moments(pd.Series([1.6852416e12, 1.6852417e12], dtype="float32"))


def test_marks():
    assert marks(pd.Series(["Yes", " no", None]))[0].tolist()[:2] == [1, 0]
    assert marks(pd.Series(["yes", "no"]))[1] == "yes is 1, no 0"
    assert marks(pd.Series([1.0, None]))[0].tolist() == [1, 0]  # only ones are written down
    assert marks(pd.Series([True, False]))[0].tolist() == [1, 0]
    with pytest.raises(UnclearError, match="found '37'"):
        marks(pd.Series([0, 37]))


def test_covariates_of_every_kind_become_numbers():
    def made(values):
        columns, said = covariate("x", pd.Series(values))
        return {name: of.tolist() for name, of in columns.items()}, " ".join(said)

    assert made([1, None, 3, 8])[0] == {"x": [1, 3, 3, 8]}
    assert "1 users have none, and are given the median, 3" in made([1, None, 3, 8])[1]
    assert made(["1.5", "NA", "2.5"])[0] == {"x": [1.5, 2, 2.5]}
    assert made([True, False])[0] == {"x": [1, 0]}
    assert made(["2024-01-01", "2024-01-03"])[0] == {"x": [0, 2]}
    assert made(pd.Categorical(["a", "b", "A", None]))[0] == {"x_b": [0, 1, 0, 0], "x_missing": [0, 0, 0, 1]}
    assert made([5, 5, None]) == ({}, "covariate 'x' is left out: it does not vary over users")
    levels = ["free"] * 60 + ["pro"] * 37 + ["a/b", "c", "d"]
    columns, said = made(levels)
    assert {name: sum(of) for name, of in columns.items()} == {"x_pro": 37, "x_other": 3}
    assert "the 3 rarest levels" in said
    assert "base level 'free'" in said
    assert "given the base level" in made(["free"] * 60 + ["pro"] * 59 + ["odd"])[1]
    for values, problem in (
        ([f"u{n}" for n in range(40)], "40 different texts"),
        ([f"{n},5" for n in range(40)], "numbers that cannot all be read"),
        ([*range(40), "many"], "e.g. 'many'"),
    ):
        with pytest.raises(UnclearError, match=problem):
            made(values)


def test_own_names_are_taken_as_they_are_mapped_or_as_they_usually_are():
    parts = tables(
        users=lambda f: f.rename(columns={"user_id": "User ID"}),
        searches=lambda f: f.rename(columns={"user_id": "who", "category": "genre"}),
    )
    columns = {"who": "user_id"}
    assert "'genre' for category" in said_of(**parts, **BLOCKS, columns=columns)
    indexed = parts | {"users": parts["users"].set_index("User ID")}
    assert from_frames(**indexed, **BLOCKS, columns=columns).n_users == 8
    unclear = parts | {"users": parts["users"].assign(uid=1)}
    with pytest.raises(ProblemsError, match="'user_id': missing, and User ID, uid may each be it") as refused:
        from_frames(**unclear, **BLOCKS, columns=columns)
    assert len(refused.value.problems) == 1


def test_one_table_of_both_surfaces_is_split():
    parts = tables()
    both = pd.concat(
        [
            parts["searches"].assign(surface="Search box"),
            parts["recommendations"].assign(surface=["home", "autoplay"] * 30),
        ]
    )
    dataset = from_frames(parts["users"], both, **BLOCKS)
    expected = from_frames(**parts, **BLOCKS)
    for surface in ("search", "exposure", "engagement"):
        assert (getattr(dataset, surface) == getattr(expected, surface)).all()
    assert "the 60 rows whose surface is home, autoplay" in "\n".join(dataset.remarks)


def test_without_timestamps_there_is_one_period():
    parts = tables(searches=lambda f: f.drop(columns="timestamp"))
    dataset = from_frames(**parts, **BLOCKS)
    assert dataset.periods.number == 1
    assert "there is one period" in "\n".join(dataset.remarks)
    assert dataset.remarks == tuple(sentence for sentence in dataset.remarks if "2010" not in sentence)


def test_what_cannot_be_used_is_left_out_and_said():
    parts = tables(
        users=lambda f: pd.concat([f, f.iloc[:1]]),
        searches=lambda f: f.assign(category=f["category"].mask(f.index < 3)),
        recommendations=lambda f: f.assign(
            user_id=f["user_id"].mask(f.index < 2, "guest").mask(f.index == 2)
        ),
    )
    said = said_of(**parts, **BLOCKS)
    for words in (
        "users: 1 of 9 rows are left out: a copy of another row",
        "searches: 3 of 60 rows are left out: no category",
        "recommendations: 1 of 60 rows are left out: no user_id",
        "recommendations: 2 of 59 rows are left out: the user is not in the users' table",
    ):
        assert words in said


def test_users_whose_ids_were_saved_as_floats_in_part_are_found():
    parts = content()
    users = parts["users"].assign(user_id=range(8))
    own = {name: n for n, name in enumerate(parts["users"]["user_id"])}
    tables = [
        parts[stem].assign(user_id=parts[stem]["user_id"].map(own))
        for stem in ("search_events", "recommendation_events")
    ]
    whole = from_frames(users, *tables, exposure=["feed"], preference=["wish"])
    mixed = [
        f.assign(user_id=[f"{u}.0" if n % 2 else str(u) for n, u in enumerate(f["user_id"])]) for f in tables
    ]
    found = from_frames(users, *mixed, exposure=["feed"], preference=["wish"])
    assert all((found.counts[name] != whole.counts[name]).nnz == 0 for name in whole.counts)


def test_users_who_look_like_known_ones_are_pointed_at():
    parts = content()
    searches = parts["search_events"]
    upper = searches.assign(
        user_id=searches["user_id"].where(searches.index > 9, searches["user_id"].str.upper())
    )
    found = from_frames(
        parts["users"], upper, parts["recommendation_events"], exposure=["feed"], preference=["wish"]
    )
    assert any("not in the users' table ('U" in said for said in found.remarks)


@pytest.mark.parametrize(
    ("stem", "column", "kind", "past"),
    [
        ("users", "user_id", "float64", 2**53),
        ("searches", "category", "float64", 2**53),
        ("searches", "user_id", "float32", 2**24),
    ],
)
def test_keys_past_what_floats_tell_apart_are_refused(stem, column, kind, past):
    parts = content()
    tables = {
        "users": parts["users"],
        "searches": parts["search_events"],
        "recommendations": parts["recommendation_events"],
    }
    codes, _ = pd.factorize(tables[stem][column])
    tables[stem] = tables[stem].assign(**{column: (codes + past).astype(kind)})
    with pytest.raises(
        ProblemsError, match=f"{stem}, column '{column}', row .: a float that may stand for several"
    ):
        from_frames(**tables, exposure=["feed"], preference=["wish"])


def test_rare_categories_and_spellings_are_one():
    parts = tables(searches=lambda f: f.assign(category=f["category"].str.upper() + " "))
    dataset = from_frames(**parts, **BLOCKS, top_categories=2)
    assert len(dataset.categories) == 3
    assert "other" in dataset.categories
    said = "\n".join(dataset.remarks)
    assert "most frequent spelling" in said
    assert "the 1 rarest of 3" in said


def test_frequent_are_the_categories_of_either_surface():
    parts = tables(searches=lambda f: f.assign(category=["shoes"] * 6 + ["maps"] * 54))
    shown = pd.concat([parts["recommendations"].assign(category=["food", "shoes"] * 30)] * 9)
    dataset = from_frames(**parts | {"recommendations": shown}, **BLOCKS, top_categories=2)
    assert dataset.categories == ["maps", "other", "shoes"]


def test_all_problems_are_said_at_once():
    parts = tables(
        users=lambda f: pd.concat([f.drop(columns="age"), f.drop(columns="age").iloc[:1].assign(feed=9)]),
        searches=lambda f: f.assign(timestamp="soon"),
        recommendations=lambda f: f.assign(engaged=7).drop(columns="category"),
    )
    with pytest.raises(ProblemsError) as refused:
        from_frames(**parts, **BLOCKS, columns={"nothing": "category"}, top_categories=1)
    said = "\n".join(refused.value.problems)
    for words in (
        "top_categories is 1",
        "column 'nothing' is to be called 'category'",
        "users, column 'user_id', row 9: 1 users have rows that differ",
        "users, column 'age': missing",
        "searches, column 'timestamp', row 1: no moment (found 'soon')",
        "recommendations, column 'category': missing",
    ):
        assert words in said
    assert len(refused.value.problems) == 6


def test_other_users_and_reserved_names_are_refused():
    with pytest.raises(ProblemsError, match="no user is one of the users' table"):
        from_frames(**tables(searches=lambda f: f.assign(user_id="x" + f["user_id"])), **BLOCKS)
    parts = tables(users=lambda f: f.rename(columns={"wish": "platform_1"}))
    with pytest.raises(ProblemsError, match="'platform_1' has the name"):
        from_frames(**parts, exposure=["feed"], preference=["platform_1"])


@pytest.mark.parametrize("kind", ["parquet", "csv", "csv.gz", "semicolons"])
def test_files_of_every_usual_kind_are_the_same(tmp_path, kind):
    parts = tables()
    paths = []
    for label, frame in parts.items():
        paths.append(tmp_path / f"{label}.{kind if kind != 'semicolons' else 'txt'}")
        if kind == "parquet":
            frame.to_parquet(paths[-1])
        else:
            frame.to_csv(paths[-1], index=False, sep=";" if kind == "semicolons" else ",")
    import_files(*paths, tmp_path / "logs", **BLOCKS)
    dataset, expected = read_dataset(tmp_path / "logs"), from_frames(**parts, **BLOCKS)
    assert dataset.categories == expected.categories
    for surface in ("search", "exposure", "engagement"):
        assert (getattr(dataset, surface) == getattr(expected, surface)).all()
    np.testing.assert_allclose(dataset.covariates("platform"), expected.covariates("platform"))


def test_nothing_is_written_that_is_refused_and_lines_are_named(tmp_path):
    for name, table in company(users=40).items():
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    spoilt = pd.read_csv(tmp_path / "deliveries.csv", dtype="str")
    spoilt.loc[7, "watched"] = "perhaps"
    spoilt.to_csv(tmp_path / "deliveries.csv", index=False)
    paths = [tmp_path / f"{name}.csv" for name in ("users", "searches", "deliveries")]
    with pytest.raises(DatasetError, match=r"deliveries.csv, column 'watched', line 9: neither yes nor no"):
        import_files(*paths, tmp_path / "logs", exposure=["autoplay"], preference=["plan"])
    assert not (tmp_path / "logs").exists()
    spoilt.loc[7, "watched"] = "no"
    spoilt.to_csv(paths[2], index=False)
    account = import_files(*paths, tmp_path / "logs", exposure=["autoplay"], preference=["plan"])
    assert json.loads((tmp_path / "logs" / "import.json").read_text()) == account.to_dict()
    with pytest.raises(DatasetError, match="exists already"):
        import_files(*paths, tmp_path / "logs", exposure=["autoplay"], preference=["plan"])
    with pytest.raises(DatasetError, match="no such file"):
        import_files(
            tmp_path / "none.csv", *paths[1:], tmp_path / "new", exposure=["autoplay"], preference=["plan"]
        )


def three_files(folder):
    """As a company has them."""
    parts = content(users=30, events=300)
    paths = [folder / f"{stem}.csv" for stem in ("users", "search_events", "recommendation_events")]
    for path in paths:
        parts[path.stem].to_csv(path, index=False)
    return parts, paths


def imported(paths, out):
    return import_files(*paths, out, exposure=["feed"], preference=["wish"])


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ("a column twice", "column 'wish': there 2 times"),
        ("a spreadsheet", "it holds a zip or a spreadsheet"),
        ("UTF-16", "it holds text in UTF-16"),
        ("a line on separators", r"a first line on separators \(sep=\)"),
        ("a folder", "a folder, and no file"),
        ("a bomb", "unfold to more than"),
        ("a header alone", "no row is left that can be used"),
    ],
)
def test_files_in_another_form_are_refused_with_what_they_are(form, says, tmp_path, monkeypatch):
    _, paths = three_files(tmp_path)
    users, whole = paths[0], paths[0].read_text()
    if form == "a folder":
        users.unlink()
        users.mkdir()
    elif form == "a bomb":
        monkeypatch.setattr(importing, "LARGE", 1_000)
        paths[0] = tmp_path / "users.csv.gz"
        paths[0].write_bytes(gzip.compress((whole + "\n" * 10**6).encode()))
    else:
        forms = {
            "a column twice": whole.replace("feed", "wish", 1).encode(),
            "a spreadsheet": b"PK\x03\x04 and so on",
            "UTF-16": whole.encode("utf-16"),
            "a line on separators": f"sep=,\n{whole}".encode("utf-8-sig"),
            "a header alone": whole.partition("\n")[0].encode(),
        }
        users.write_bytes(forms[form])
    with pytest.raises(DatasetError, match=says):
        imported(paths, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_index_is_a_column_and_what_reading_finds_is_said(tmp_path):
    parts, paths = three_files(tmp_path)
    paths[0] = tmp_path / "users.parquet"
    feed = parts["users"]["feed"].where(parts["users"].index != 3, 1e9)
    parts["users"].assign(feed=feed).set_index("user_id").to_parquet(paths[0])
    said = imported(paths, tmp_path / "out").said
    assert any("column 'feed': one user makes" in sentence for sentence in said)


def test_a_surface_s_marks_are_read_on_that_surface_alone():
    """What was clicked of a search's results is no part of it, and may have gaps."""
    parts = tables(
        searches=lambda frame: frame.assign(clicked=[1.0, *[None] * (len(frame) - 1)]),
        recommendations=lambda frame: frame.assign(suggested="perhaps"),
    )
    dataset, plain = (from_frames(**of, **BLOCKS) for of in (parts, tables()))
    assert dataset.search.sum() == plain.search.sum()
    assert dataset.engagement.sum() == plain.engagement.sum()
    assert "no engaged" not in "\n".join(dataset.remarks)


def test_rows_that_may_be_of_either_surface_are_not_taken_for_both():
    parts = tables()
    events = pd.concat(
        [parts["searches"].assign(source="search"), parts["recommendations"].assign(source="feed")]
    )
    with pytest.raises(ProblemsError, match="both surfaces are the same rows; say which column tells"):
        from_frames(parts["users"], events, **BLOCKS)
    together = from_frames(parts["users"], events, columns={"source": "surface"}, **BLOCKS)
    assert together.search.sum() == from_frames(**parts, **BLOCKS).search.sum()


def test_logs_are_read_as_a_run_reads_them():
    parts = tables()
    first = from_frames(**parts, **BLOCKS)
    names = [*first.categories, "new"]
    later = from_frames(**parts, **BLOCKS, categories=names, periods=first.periods)
    assert later.categories == names
    assert later.periods.length == first.periods.length
    assert later.search.sum() == first.search.sum()


def test_two_columns_that_may_be_the_time_are_asked_about():
    parts = tables()
    for label in ("searches", "recommendations"):
        own = parts[label].rename(columns={"timestamp": "time"})
        parts[label] = own.assign(date="2024-03-22")
    with pytest.raises(ProblemsError, match="may each be it; say which"):
        from_frames(**parts, **BLOCKS)


def test_fractions_that_are_no_moment_are_refused_in_words():
    with pytest.raises(UnclearError, match="neither dates nor seconds"):
        moments(pd.Series([45068.604, 45069.1, 45070.25]))
