"""Claims about files of KuaiSAR in another form, or meant ill: read, counted, or one clear error."""

from __future__ import annotations

import json
import zipfile
from datetime import datetime, timedelta, timezone
from functools import partial

import numpy as np
import pyarrow.csv as pacsv
import pytest
from kuaisar_files import (
    DAY,
    HOUR,
    MIDNIGHT,
    files,
    folder,
    item,
    lost,
    result,
    shown,
    text,
    with_rows,
    zipped,
)
from typer.testing import CliRunner

from pyro_hmvcrl.cli import app
from pyro_hmvcrl.data.folder import read_dataset
from pyro_hmvcrl.data.tables import DatasetError
from pyro_hmvcrl.kuaisar import files as files_module
from pyro_hmvcrl.kuaisar.clock import moment
from pyro_hmvcrl.kuaisar.covariates import Covariate
from pyro_hmvcrl.kuaisar.files import KuaisarError
from pyro_hmvcrl.kuaisar.folder import write_kuaisar
from pyro_hmvcrl.kuaisar.reading import read_kuaisar

# Of a day's window no part has much in it.
write = partial(write_kuaisar, covariates_share=0)


def column(tables, name, header, change):
    """Change the values of a column, in place."""
    at = tables[name][0].split(",").index(header)
    for row in tables[name][1]:
        row[at] = change(row[at])
    return tables


# --- Units of time ---------------------------------------------------------------------------------------------------

TIMES = {"rec_inter.csv": "timestamp", "src_inter.csv": "search_session_timestamp"}


@pytest.mark.parametrize("names", [["rec_inter.csv"], ["src_inter.csv"], list(TIMES)])
@pytest.mark.parametrize(("factor", "unit"), [(1e-3, "seconds"), (1e3, "microseconds"), (1e6, "nanoseconds")])
def test_another_unit_of_time_is_refused_and_named(read, names, factor, unit):
    tables = files()
    for name in names:
        column(tables, name, TIMES[name], lambda time: f"{float(time) * factor:.0f}")
    with pytest.raises(
        KuaisarError, match=rf"{names[0]}, column '{TIMES[names[0]]}', row 1: .* is in {unit}: "
    ):
        read(tables)


@pytest.mark.parametrize("time", ["0", "-1000", "1684771200", "4102444800000"])
def test_a_few_odd_times_are_left_out_and_counted(read, time):
    odd_delivery, odd_result = shown(1, 10), result(1, 10, keyword="[7]")
    odd_delivery[4] = odd_result[6] = time
    tables = with_rows("rec_inter.csv", odd_delivery)
    tables["src_inter.csv"][1].append(odd_result)
    data = read(tables)
    for name, header in TIMES.items():
        assert lost(data, name) == {f"{header} is before 2010 or after next year": 1}
    assert data.window == (MIDNIGHT, MIDNIGHT + DAY)


def test_no_time_of_these_years_at_all_is_refused(read):
    with pytest.raises(KuaisarError, match=r"row 1: 5\.0 is no time in ms since 1970 of these years"):
        read(column(files(), "rec_inter.csv", "timestamp", lambda _: "5"))


# --- What is the same for all users ----------------------------------------------------------------------------------


def test_covariates_without_variation_are_named(tmp_path):
    source = folder(tmp_path / "K", column(files(), "item_features.csv", "upload_time", lambda _: ""))
    said = CliRunner().invoke(
        app, ["import-kuaisar", str(source), str(tmp_path / "out"), "--min-events=1", "--covariates-share=0"]
    )
    assert said.exit_code == 0, said.output
    left = {
        c["name"]: c
        for c in json.loads((tmp_path / "out" / "import.json").read_text())["covariates_left_out"]
    }
    assert left["age"]["reason"] == "no user has a value"
    assert "covariate age is left out: no user has a value" in said.output
    assert left.keys() & set(read_dataset(tmp_path / "out").users) == set()
    assert all({"name", "block", "definition", "why", "reason"} == set(of) for of in left.values())


def test_users_who_are_given_the_median_are_told(tmp_path):
    tables = with_rows("user_features.csv", [3, 0, 2, 3, 1])
    tables["src_inter.csv"][1].append(result(3, 10))
    source = folder(tmp_path / "K", tables)
    said = CliRunner().invoke(
        app, ["import-kuaisar", str(source), str(tmp_path / "out"), "--min-events=1", "--covariates-share=0"]
    )
    assert "covariate age: 1 users have none, and are given the median" in said.output


# --- What cannot be parsed -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("written", ["2023/05/22", "1684713600000", "22.05.2023", "May 2023"])
def test_dates_that_cannot_be_read_are_counted_with_an_example(read, written):
    tables = files()
    tables["item_features.csv"][1][1][4] = written
    data = read(tables)
    reason = f"upload_time is no date like 2023-05-22, e.g. '{written}'"
    assert data.account.to_dict()["item_features.csv"]["without_a_value"] == {reason: 1}
    assert np.isnan(data.deliveries["age"]).sum() == 2  # of the item's two deliveries


@pytest.mark.parametrize("written", ["2023-05-20 14:30:00", "2023-05-20T14:30:00", " 2023-05-20 "])
def test_dates_with_a_time_are_read(read, written, tmp_path):
    tables = files()
    tables["item_features.csv"][1][1][4] = written
    plain = read_kuaisar(folder(tmp_path / "plain", files()))
    data = read(tables)
    assert data.deliveries.equals(plain.deliveries)
    assert data.account.missing == {}


def test_values_that_are_missing_are_counted(read):
    tables = with_rows("rec_inter.csv", shown(1, 10, HOUR, duration=0), shown(2, 10, HOUR, duration=""))
    tables["item_features.csv"][1][0][4:6] = "", ""
    tables["item_features.csv"][1][1][4] = "1970-01-01"
    tables["social_network.csv"][1].append([2, "nobody"])
    assert read(tables).account.missing == {
        "item_features.csv": {
            "upload_time is missing": 1,
            "upload_time is 1970-01-01 or earlier, which stands for none": 1,
            "upload_type is missing": 1,
        },
        "rec_inter.csv": {"duration_ms is missing": 1, "duration_ms is 0": 1},
        "social_network.csv": {"user_follow_id is no list, e.g. 'nobody'": 1},
    }


def test_what_was_kept_without_a_value_is_told(tmp_path):
    source = folder(
        tmp_path / "K", column(files(), "item_features.csv", "upload_time", lambda _: "2023/05/22")
    )
    said = CliRunner().invoke(
        app, ["import-kuaisar", str(source), str(tmp_path / "out"), "--min-events=1", "--covariates-share=0"]
    )
    assert "3  kept without it: upload_time is no date like 2023-05-22, e.g. '2023/05/22'" in said.output


# --- Dates of a window -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "written", ["2023-05-25", "2023-05-25 14:30", "2023-05-25T14:30:15", "2023-05-25T14:30:15.250"]
)
@pytest.mark.parametrize(("offset", "hours"), [("", 8), ("+08:00", 8), ("Z", 0), ("-0330", -3.5), ("+09", 9)])
def test_a_time_in_iso_8601_is_what_it_says(written, offset, hours):
    if offset and len(written) == 10:
        pytest.skip("a day has no offset")
    zone = timezone(timedelta(hours=hours))
    assert (
        moment(written + offset) == datetime.fromisoformat(written).replace(tzinfo=zone).timestamp() * 1_000
    )


@pytest.mark.parametrize(
    "written",
    [
        *("10/06/2023", "25.05.2023", "May 2023", "2023", "2023-5-2", "2023-02-30", "\uff12023-05-25"),
        *("now", "today", "NaT", "nan", "", "1684713600000", "x" * 10_000),
        *("2023-05-25T25:00", "2023-05-25x14:30", "2023-05-25T14:30:00 CET"),
    ],
)
def test_any_other_is_refused(written):
    with pytest.raises(KuaisarError, match="is not a time: write it like 2023-05-22") as caught:
        moment(written)
    assert len(str(caught.value)) < 300


# --- Ids and codes as floats -----------------------------------------------------------------------------------------


def as_float(value):
    return f"{value}.0" if str(value).isdigit() else value


def test_ids_and_codes_that_were_saved_as_floats_are_the_integers_they_were(read, tmp_path):
    padding, uncategorised = (0, "空", "empty"), shown(1, 13, HOUR)
    plain, floats = (with_rows("item_features.csv", item(13, padding)) for _ in range(2))
    for tables in (plain, floats):
        tables["item_features.csv"][1].append(item(14, (7, "", "")))
        tables["rec_inter.csv"][1].extend([shown(1, 14, HOUR), list(uncategorised)])
    of = {
        "user_features.csv": [
            "user_id",
            "onehot_feat1",
            "onehot_feat2",
            "search_active_level",
            "rec_active_level",
        ],
        "item_features.csv": ["item_id", "first_level_category_id", "upload_type"],
        "rec_inter.csv": ["user_id", "item_id", "duration_ms", "click"],
        "src_inter.csv": ["user_id", "item_id", "click_cnt", "search_session_id"],
        "social_network.csv": ["user_id"],
    }
    for name, headers in of.items():
        for header in headers:
            column(floats, name, header, as_float)
    floats["social_network.csv"][1][0][1] = "[2.0, 9.0, 10.0]"
    expected, found = read_kuaisar(folder(tmp_path / "plain", plain)), read(floats)
    assert lost(found, "rec_inter.csv") == {"the item has no category at this level": 1}
    assert found.categories == expected.categories == ["7", "Cars", "Food"]
    for part in ("users", "deliveries", "searches", "queries"):
        assert getattr(found, part).equals(getattr(expected, part)), part


def test_words_in_another_spelling_are_the_words_they_are(read, tmp_path):
    """Whether the user typed a query hangs on one of them."""
    expected, tables = read_kuaisar(folder(tmp_path / "as it is", files())), files()
    column(tables, "src_inter.csv", "search_source", lambda word: f" {word.lower()}")
    column(tables, "src_inter.csv", "item_type", lambda word: word.title())
    tables["item_features.csv"][1][0][6] = "04"  # the first level's id
    found = read(tables)
    assert found.queries["user_input"].tolist() == expected.queries["user_input"].tolist()
    assert found.searches.equals(expected.searches)
    assert found.categories == expected.categories


def test_items_that_are_uploaded_after_they_are_delivered_have_no_age_and_are_counted(read):
    tables = files()
    tables["item_features.csv"][1][0][4] = "2099-01-01"
    data = read(tables)
    assert data.deliveries["age"].isna().tolist() == [True, False, False, False]
    assert data.account.to_dict()["rec_inter.csv"]["without_a_value"] == {
        "age is negative: the item is uploaded later": 1
    }


def test_padding_as_floats_is_no_category(read):
    tables = with_rows("item_features.csv", item(13, ("0.0", "", "")), item(14, ("4", "0.0", " Empty")))
    tables["rec_inter.csv"][1].extend([shown(1, 13), shown(1, 14)])
    data = read(tables)
    assert lost(data, "rec_inter.csv") == {"the item has no category at this level": 1}
    assert set(data.categories) == {"Food", "Cars"}


@pytest.mark.parametrize("name", list(files()))
@pytest.mark.parametrize("header", ["user_id", "item_id"])
def test_ids_that_floats_do_not_tell_apart_are_refused(read, name, header):
    tables = files()
    if header not in tables[name][0].split(","):
        pytest.skip("not there")
    column(tables, name, header, lambda value: 2**53 + int(value))
    with pytest.raises(KuaisarError, match=rf"{name}, column '{header}', row 1: .* is past 2\^53"):
        read(tables)


# --- In another form -------------------------------------------------------------------------------------------------


def test_names_in_any_case_and_windows_paths_in_a_zip_are_found(tmp_path):
    with zipfile.ZipFile(tmp_path / "K.zip", "w") as archive:
        for name, table in files().items():
            member = zipfile.ZipInfo("x")
            member.filename = f"KuaiSAR_final\\{name.upper()}"  # as it stands in the archive
            archive.writestr(member, text(*table))
    assert len(read_kuaisar(tmp_path / "K.zip").deliveries) == 4


def test_a_packed_file_is_said(tmp_path):
    source = folder(tmp_path / "K", files())
    (source / "rec_inter.csv").rename(source / "rec_inter.csv.gz")
    with pytest.raises(KuaisarError, match=r"rec_inter.csv is not there, but rec_inter.csv.gz: unpack it"):
        read_kuaisar(source)


def test_another_separator_and_a_column_twice_are_said(tmp_path):
    source = folder(tmp_path / "K", files())
    users = (source / "user_features.csv").read_text()
    (source / "user_features.csv").write_text(users.replace(",", ";"))
    with pytest.raises(KuaisarError, match=r"no column 'user_id'.*\(separate columns by commas\)"):
        read_kuaisar(source)
    (source / "user_features.csv").write_text(users.replace("onehot_feat2", "onehot_feat1"))
    with pytest.raises(KuaisarError, match=r"column 'onehot_feat1' is there 2 times; leave one|no column"):
        read_kuaisar(source)
    (source / "user_features.csv").write_text(users.replace("onehot_feat2", "user_id,onehot_feat2"))
    with pytest.raises(
        KuaisarError, match=r"user_features.csv: column 'user_id' is there 2 times; leave one"
    ):
        read_kuaisar(source)


# --- Meant ill -------------------------------------------------------------------------------------------------------


def test_a_zip_that_unfolds_without_bound_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(files_module, "LARGE", 1 << 20)
    zipped(tmp_path / "K.zip", compression=zipfile.ZIP_DEFLATED)
    assert len(read_kuaisar(tmp_path / "K.zip").deliveries) == 4
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, table in files().items():
            blank = b"\n" * (1 << 23) if name == "rec_inter.csv" else b""
            archive.writestr(name, text(*table).encode() + blank)
    with pytest.raises(
        KuaisarError, match=r"bomb.zip, rec_inter.csv: [\d,]+ bytes that unfold to 8,388,\d+, as no"
    ):
        read_kuaisar(tmp_path / "bomb.zip")


def test_a_file_that_the_memory_does_not_hold_is_named(tmp_path, monkeypatch):
    def full(*args, **options):
        raise MemoryError

    source = folder(tmp_path / "K", files())
    monkeypatch.setattr(pacsv, "read_csv", full)
    with pytest.raises(
        KuaisarError, match=r"user_features.csv: too large for the memory of this machine; give"
    ):
        read_kuaisar(source)


def test_messages_stay_short_whatever_a_file_holds(tmp_path):
    source = folder(tmp_path / "K", files())
    users = (source / "user_features.csv").read_text()
    wide = ",".join(f"column {n}" for n in range(50_000))
    for spoilt in (wide + "\n", users.replace("1,0,2", "x" * 1_000_000 + ",0,2")):
        (source / "user_features.csv").write_text(spoilt)
        with pytest.raises(KuaisarError) as caught:
            read_kuaisar(source)
        assert len(str(caught.value)) < 1_500


def test_a_covariate_with_a_reserved_name_is_not_written(read, tmp_path):
    own = Covariate("platform", "number", "so I say", lambda data: np.bincount(data.deliveries["user"]))
    with pytest.raises(DatasetError, match="'platform' has the name of a channel"):
        write(read(files()), tmp_path / "out", exposure=[own], min_events=1)
