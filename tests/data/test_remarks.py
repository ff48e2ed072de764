"""Claims about what reading finds worth saying, or refuses as it can mean nothing."""

from __future__ import annotations

import decimal
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from folders import FORMATS, TABLES, Content, content, described, put, with_values, write

from pyro_hmvcrl.data import tables
from pyro_hmvcrl.data.dataset import Dataset
from pyro_hmvcrl.data.folder import read_dataset
from pyro_hmvcrl.data.names import like, listed, look_alikes, short
from pyro_hmvcrl.data.tables import DatasetError
from pyro_hmvcrl.synthetic.design import Design
from pyro_hmvcrl.synthetic.folder import write_simulation
from pyro_hmvcrl.synthetic.simulation import simulate

KINDS = ["shoes", "food", "None"]


def recoded(parts: Content, stem: str, names: dict[str, object], column: str = "category") -> Content:
    return {**parts, stem: parts[stem].assign(**{column: parts[stem][column].map(lambda v: names.get(v, v))})}


def large(users: int = 300, seed: int = 0) -> Content:
    return content(users=users, events=3_000, seed=seed)


def said(folder: Path, parts: Content, suffix: str = "parquet") -> str:
    return "\n".join(read_dataset(put(folder, parts, suffix)).remarks)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in parts of seven rows, of which there would be hundreds."""
    monkeypatch.setattr(tables, "PART", 1 << 20)


@pytest.mark.usefixtures("at_once")
def test_usual_logs_are_read_without_a_remark(tmp_path: Path) -> None:
    assert said(tmp_path / "set", large()) == ""


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("knobs", [{}, {"learning": 1.0}, {"suggestion": 0.3}], ids=str)
def test_simulated_logs_are_read_without_a_remark(knobs: dict[str, float], tmp_path: Path) -> None:
    write_simulation(simulate(Design(users=200, **knobs), 0), tmp_path / "set", 0, truth=False)
    assert read_dataset(tmp_path / "set").remarks == ()


# --- Keys of two tables ------------------------------------------------------------------------------------------

APART = {
    "case": ("shoes", "SHOES"),
    "a space": ("shoes", "shoes "),
    "a space inside": ("home garden", "homegarden"),
    "normal form": ("Café", unicodedata.normalize("NFD", "Café")),
    "width": ("ABC", "\uff21\uff22\uff23"),
    "no width": ("shoes", "shoes\u200b"),
    "a number": ("1", "1.00"),
    "zeros": ("7", "007"),
    "a power of ten": ("1000", "1e3"),
}


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("how", APART)
def test_categories_that_look_alike_are_named(how: str, suffix: str, tmp_path: Path) -> None:
    one, other = APART[how]
    assert one != other
    parts = recoded(content(), "search_events", {"shoes": one})
    parts = recoded(parts, "recommendation_events", {"shoes": other})
    found = said(tmp_path / "set", parts, suffix)
    assert "names that look alike count as different ones" in found
    assert repr(one) in found
    assert repr(other) in found
    assert "of the events of search_events and" in found


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(
    "names",
    [dict(zip(KINDS, of, strict=True)) for of in (["SHOES", "Food", "none"], ["1", "2", "3"])],
    ids=["case", "ids here and names there"],
)
def test_surfaces_without_a_category_in_common_are_refused(
    names: dict[str, object], suffix: str, tmp_path: Path
) -> None:
    parts = recoded(content(), "recommendation_events", names)
    with pytest.raises(
        DatasetError, match=r"recommendation_events\..*, column 'category': none of them is"
    ) as e:
        read_dataset(put(tmp_path / "set", parts, suffix))
    assert ("look alike" in str(e.value)) == (names["food"] == "Food")
    assert "name them alike" in str(e.value)
    with pytest.raises(DatasetError, match="none of them is"):
        write(tmp_path / "written", parts)


def test_the_share_of_events_in_categories_of_both_is_said(tmp_path: Path) -> None:
    parts = content()
    events = parts["search_events"].assign(category=["boats"] * 45 + ["food"] * 15)
    shown = parts["recommendation_events"].assign(category=["food"] * 40 + ["shoes"] * 20)
    found = said(tmp_path / "set", {**parts, "search_events": events, "recommendation_events": shown})
    assert "25% of the events of search_events and 67% of the events of recommendation_events" in found
    assert "named alike in both tables?" in found


@pytest.mark.parametrize("of", TABLES[1:])
def test_integers_that_were_saved_as_floats_are_the_integers_they_were(of: str, tmp_path: Path) -> None:
    """A column of text, of numbers, or of a CSV file; what is text is said."""
    parts = content()
    for stem in TABLES:
        parts[stem]["user_id"] = parts[stem]["user_id"].str[1:].astype("int64")
    for stem in TABLES[1:]:
        parts = recoded(parts, stem, {"shoes": 1, "food": 2, "None": 0})
    plain = read_dataset(put(tmp_path / "plain", parts))
    floats = {"category": "float64", "user_id": "float64"}
    for name, form in {"numbers": "float64", "text": "str", "csv": "float64"}.items():
        frame = parts[of].astype(floats).astype(dict.fromkeys(floats, form))
        folder = put(tmp_path / name, {**parts, of: frame}, "csv" if name == "csv" else "parquet")
        found = read_dataset(folder)
        assert found.categories == ["0", "1", "2"]
        for counts in ("search", "exposure", "engagement"):
            np.testing.assert_array_equal(getattr(found, counts), getattr(plain, counts))
        assert ("written as floats (0.0, 1.0) are read as integers" in "".join(found.remarks)) == (
            name != "numbers"
        )
        assert found.search_events["category"].tolist() == plain.search_events["category"].tolist()


@pytest.mark.parametrize("form", ["str", "float64", "object"])
def test_users_who_were_saved_as_floats_are_found(form: str, tmp_path: Path) -> None:
    parts = content()
    for stem in TABLES:
        parts[stem]["user_id"] = parts[stem]["user_id"].str[1:].astype("int64")
    plain = read_dataset(put(tmp_path / "plain", parts))
    floats = parts["users"]["user_id"].astype("float64").astype(form)
    for suffix in FORMATS:
        folder = put(tmp_path / suffix, {**parts, "users": parts["users"].assign(user_id=floats)}, suffix)
        np.testing.assert_array_equal(read_dataset(folder).search, plain.search)


def test_users_who_look_alike_are_named(tmp_path: Path) -> None:
    parts = content()
    for stem in TABLES:
        parts = recoded(parts, stem, {"u3": "U4"}, "user_id")
    found = said(tmp_path / "set", parts)
    assert "users.parquet, column 'user_id': names that look alike" in found
    assert "'U4' and 'u4'" in found


@pytest.mark.parametrize("suffix", FORMATS)
def test_an_unknown_user_who_looks_like_a_known_one_is_told_so(suffix: str, tmp_path: Path) -> None:
    parts = with_values(content(), "search_events", "user_id", {7: "U3 "})
    with pytest.raises(DatasetError, match=r"'U3 ' is not a user of .*\(there is 'u3', written otherwise\)"):
        read_dataset(put(tmp_path / "set", parts, suffix))


def test_users_of_either_surface_only_are_refused(tmp_path: Path) -> None:
    parts = content()
    for stem, users in zip(TABLES[1:], (["u1", "u2"], ["u3", "u4"]), strict=True):
        parts[stem] = parts[stem].assign(user_id=np.resize(users, 60))
    with pytest.raises(DatasetError, match=r"users\.parquet, column 'user_id': no user has events of both"):
        read_dataset(put(tmp_path / "set", parts))


def test_users_without_a_surface_are_counted(tmp_path: Path) -> None:
    parts = content()
    parts["search_events"] = parts["search_events"].assign(user_id=np.resize(["u1", "u2", "u3", "u4"], 60))
    assert "50% of the users have no search events" in said(tmp_path / "set", parts)


def test_surfaces_of_different_times_are_said(tmp_path: Path) -> None:
    parts = content()
    later = parts["search_events"]["timestamp"] + 10_000_000_000
    parts["search_events"] = parts["search_events"].assign(timestamp=later)
    assert "have no time in common" in said(tmp_path / "set", parts)


# --- Floats that stand for several integers -------------------------------------------------------------------------

BASE = {"float64": 2**53, "float32": 2**24}
LONG = 1_234_567_890_123_456_789


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(("stem", "column"), [(s, "user_id") for s in TABLES] + [(TABLES[1], "category")])
@pytest.mark.parametrize("base", [2**53, LONG])
def test_large_ids_are_kept_as_integers_and_refused_as_floats(
    base: int, stem: str, column: str, suffix: str, tmp_path: Path
) -> None:
    parts = content()
    number = {f"u{n}": base + n for n in range(8)} | {name: base + n for n, name in enumerate(KINDS)}
    for s in TABLES:
        parts = recoded(parts, s, number, "user_id") if column == "user_id" or s == "users" else parts
        if s != "users" and column == "category":
            parts = recoded(parts, s, number)
    if column == "category":
        parts = {**content(), **{s: parts[s] for s in TABLES[1:]}}
    plain = read_dataset(put(tmp_path / "plain", parts, suffix))
    if column == "user_id":
        assert set(map(int, plain.user_id)) == {base + n for n in range(8)}
    assert plain.search.sum() == 60
    parts[stem] = parts[stem].astype({column: "float64"})
    with pytest.raises(
        DatasetError, match=rf"column '{column}', .*a float that may stand for several integers"
    ):
        read_dataset(put(tmp_path / "set", parts, suffix))


@pytest.mark.parametrize("stem", TABLES)
def test_float32_tells_fewer_integers_apart(stem: str, tmp_path: Path) -> None:
    parts = content()
    for s in TABLES:
        parts = recoded(parts, s, {f"u{n}": 2**24 - 4 + n for n in range(8)}, "user_id")
    read_dataset(put(tmp_path / "plain", parts))
    parts[stem] = parts[stem].astype({"user_id": "float32"})
    with pytest.raises(DatasetError, match=rf"{stem}\.parquet, column 'user_id', row .*several integers"):
        read_dataset(put(tmp_path / "set", parts))


def test_decimals_and_objects_are_read_as_the_integers_they_are(tmp_path: Path) -> None:
    parts = content()
    for s in TABLES:
        parts = recoded(parts, s, {f"u{n}": n for n in range(8)}, "user_id")
    plain = read_dataset(put(tmp_path / "plain", parts))
    of = parts["search_events"]["user_id"].map(lambda n: decimal.Decimal(n).quantize(decimal.Decimal("1.00")))
    found = read_dataset(
        put(tmp_path / "set", {**parts, "search_events": parts["search_events"].assign(user_id=of)})
    )
    np.testing.assert_array_equal(found.search, plain.search)


# --- What does not vary, copies, leverage ---------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, 1])
@pytest.mark.parametrize("suffix", FORMATS)
def test_engagement_that_does_not_vary_is_refused(value: int, suffix: str, tmp_path: Path) -> None:
    parts = content()
    parts["recommendation_events"] = parts["recommendation_events"].assign(engaged=value)
    match = r"recommendation_events\..*, column 'engaged': the same in all rows"
    with pytest.raises(DatasetError, match=match):
        read_dataset(put(tmp_path / "set", parts, suffix))
    with pytest.raises(DatasetError, match=match):
        write(tmp_path / "written", parts)
    assert read_dataset(tmp_path / "set", KINDS).n_users == 8  # new logs of a run may


def test_rare_engagement_and_a_user_with_most_events_are_said(tmp_path: Path) -> None:
    parts = content(users=40, events=400)
    shown = parts["recommendation_events"]
    own = shown["user_id"].where(shown.index % 2 == 0, shown["user_id"][0])
    parts["recommendation_events"] = shown.assign(engaged=(shown.index > 3) * 1, user_id=own)
    said = "\n".join(read_dataset(put(tmp_path / "set", parts)).remarks)
    assert "only 4 of 400 recommendation events are not engaged with" in said
    assert "one user has 5" in said
    assert "% of all recommendation events" in said


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_covariate_that_varies_by_rounding_alone_is_refused(suffix: str, tmp_path: Path) -> None:
    parts = content()
    sums = 0.1 + 1e-16 * np.arange(8)
    assert len(set(sums)) > 1
    parts["users"] = parts["users"].assign(age=sums)
    with pytest.raises(DatasetError, match="column 'age': does not vary over users"):
        read_dataset(put(tmp_path / "set", parts, suffix))


def test_what_a_spreadsheet_has_rounded_is_refused_or_asked_about(tmp_path: Path) -> None:
    """1.23457E+17 for an id, 1.68524E+12 for a time."""
    parts = content()
    ids = {f"u{n}": f"{123456789012345678 + n:.5E}" for n in range(8)}
    spoilt = {**parts, "search_events": parts["search_events"].replace({"user_id": ids})}
    with pytest.raises(DatasetError, match=r"'user_id', line 2: a float that may stand for several integers"):
        read_dataset(put(tmp_path / "ids", spoilt, "csv"))
    times = parts["search_events"]["timestamp"].map(lambda time: f"{time:.5E}")
    spoilt = {**parts, "search_events": parts["search_events"].assign(timestamp=times)}
    said = read_dataset(put(tmp_path / "times", spoilt, "csv")).remarks
    assert sum("search_events.csv, column 'timestamp': all times are whole multiples" in s for s in said) == 1


def test_half_precision_tells_still_fewer_integers_apart(tmp_path: Path) -> None:
    parts = content()
    codes = {"shoes": 2_047, "food": 2_048, "None": 2_049}
    for stem, dtype in (("search_events", "float16"), ("recommendation_events", "int64")):
        parts[stem] = parts[stem].assign(category=parts[stem]["category"].map(codes).astype(dtype))
    with pytest.raises(DatasetError, match="a float that may stand for several integers"):
        read_dataset(put(tmp_path / "set", parts))


def test_one_category_is_refused(tmp_path: Path) -> None:
    parts = content()
    for stem in TABLES[1:]:
        parts[stem] = parts[stem].assign(category="food")
    for name, given in {"plain": parts, "described": described(parts, categories=KINDS)}.items():
        with pytest.raises(DatasetError, match=r"column 'category': 'food' in all events of both tables"):
            read_dataset(put(tmp_path / name, given))


def test_one_category_of_a_surface_is_said(tmp_path: Path) -> None:
    parts = content()
    parts["search_events"] = parts["search_events"].assign(category="food")
    assert "all of search_events are in one category" in said(tmp_path / "set", parts)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("stem", TABLES[1:])
@pytest.mark.parametrize("times", [2, 4])
def test_copies_are_counted_and_said(times: int, stem: str, suffix: str, tmp_path: Path) -> None:
    parts = content()
    parts[stem] = pd.concat([parts[stem]] * times).sample(frac=1, random_state=0)
    found = said(tmp_path / "set", parts, suffix)
    assert f"{60 * (times - 1)} of {60 * times} rows ({1 - 1 / times:.0%}) are exact copies" in found
    assert found.count("exact copies") == 1


@pytest.mark.parametrize("column", ["user_id", "timestamp", "category", "engaged"])
def test_rows_that_differ_in_anything_are_no_copies(column: str, tmp_path: Path) -> None:
    parts = content()
    ids = list(parts["users"]["user_id"])
    change = {
        "user_id": lambda of: of.map(dict(zip(ids, ids[1:] + ids[:1], strict=True))),
        "timestamp": lambda of: of + 1,
        "category": lambda of: of.map(dict(zip(KINDS, KINDS[1:] + KINDS[:1], strict=True))),
        "engaged": lambda of: 1 - of,
    }[column]
    events = parts["recommendation_events"]
    twice = pd.concat([events, events.assign(**{column: change(events[column])})], ignore_index=True)
    assert "copies" not in said(tmp_path / "set", {**parts, "recommendation_events": twice})


OUTLIERS = {
    "one user": {17: 1e9},
    "one sentinel": {40: -999.0},
    "two users": {17: 1e9, 230: 1.2e9},
    "ten sentinels": {n: -9_999.0 for n in range(10, 20)},
    "a few who are far out": {n: (-1) ** n * 4e5 for n in range(30)},
}


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("who", OUTLIERS)
@pytest.mark.parametrize("column", ["feed", "wish"])
def test_users_who_rule_a_covariate_are_said(who: str, column: str, tmp_path: Path) -> None:
    parts = with_values(large(), "users", column, OUTLIERS[who])
    found = said(tmp_path / "set", parts)
    number = "one user makes" if len(OUTLIERS[who]) == 1 else f"{len(OUTLIERS[who])} users make"
    assert f"users.parquet, column '{column}': {number}" in found
    assert found.count("of its variance") == 1


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("shape", ["normal", "lognormal", "cauchy's middle", "binary", "counts"])
def test_covariates_as_they_come_are_not_remarked_on(shape: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    values = {
        "normal": rng.normal(size=300),
        "lognormal": rng.lognormal(size=300),
        "cauchy's middle": np.clip(rng.standard_cauchy(300), -30, 30),
        "binary": rng.random(300) < 0.05,
        "counts": rng.poisson(0.5, 300),
    }
    parts = large()
    parts["users"] = parts["users"].assign(feed=values[shape].astype(float))
    assert "variance" not in said(tmp_path / "set", parts)


# --- Users whose factors are asked, under a run's categories ---------------------------------------------------------


def asked(folder: Path, parts: Content, suffix: str) -> Dataset:
    return read_dataset(put(folder, parts, suffix), KINDS)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("stem", TABLES[1:])
def test_users_without_a_surface_can_come_alone(stem: str, suffix: str, tmp_path: Path) -> None:
    parts = content()
    other = next(s for s in TABLES[1:] if s != stem)
    found = asked(tmp_path / "set", {**parts, stem: parts[stem].iloc[:0]}, suffix)
    assert (found.search.sum() == 0) == (stem == "search_events")
    assert found.exposure.sum() + found.search.sum() == len(parts[other])
    assert len(getattr(found, stem)) == 0
    assert "100% of the users have no" in "".join(found.remarks)
    nothing = {**parts, **{s: parts[s].iloc[:0] for s in TABLES[1:]}}
    with pytest.raises(DatasetError, match="no rows"):
        asked(tmp_path / "none", nothing, suffix)


def test_events_of_categories_that_a_run_does_not_know_alone_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DatasetError, match=r"none of the events is of a category that the run knows \(a, b\)"
    ):
        read_dataset(put(tmp_path / "set", content()), ["a", "b"])


# --- Names ----------------------------------------------------------------------------------------------------------


def test_names_that_look_alike() -> None:
    assert look_alikes(["a", "b", "1", "2", "c1", "c2", "10", "01x"]) == []
    assert look_alikes(map(str, range(1_000))) == []
    assert look_alikes(["10", "1e1", "x"]) == [("10", "1e1")]
    assert look_alikes(["1,000", "1000", "-1", "\u22121", "a-b", "a\u2010b"]) == [
        ("-1", "\u22121"),
        ("1,000", "1000"),
        ("a-b", "a\u2010b"),
    ]
    assert look_alikes(["123456789012345678901234567890", "123456789012345678901234567891", "a"]) == []
    assert like("X ", ["y", "x"]) == "x"
    assert like("z", ["y", "x"]) is None


def test_what_is_said_of_values_is_short() -> None:
    assert short("a" * 1_000_000).endswith("...")
    assert len(short("\x00" * 1_000_000)) < 200
    assert len(short(list(range(100_000)))) < 200
    assert len(listed("x" * 1_000 for _ in range(100_000))) < 1_000
    assert listed(range(3)) == "0, 1, 2"
    assert listed(["a\x1b[31m", "汉"]) == r"a\x1b[31m, 汉"
