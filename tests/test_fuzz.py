"""Fuzzing.  Whatever the files or the words: it works, or it ends in the package's own error and leaves all as it was.

The error is one line that names what it is about and the mend.  ``HMVCRL_CASES`` is the number of cases in all: 200 are
the same every time; more are drawn anew.  A case that failed once stands beside its test as an example.
"""

from __future__ import annotations

import csv
import io
import json
import pickle
import shutil
import zipfile
from functools import partial
from pathlib import Path

import damage as d
import numpy as np
import pandas as pd
import pytest
from folders import content, put, tree
from hypothesis import example, given
from hypothesis import strategies as st
from typer.testing import CliRunner

from pyro_hmvcrl.cli import app
from pyro_hmvcrl.data.folder import read_dataset, write_dataset
from pyro_hmvcrl.data.tables import DatasetError
from pyro_hmvcrl.inference.checkpoints import load_tensors, save_tensors
from pyro_hmvcrl.inference.settings import Settings
from pyro_hmvcrl.kuaisar.copy.folder import write_kuaisar_copy
from pyro_hmvcrl.kuaisar.files import KuaisarError
from pyro_hmvcrl.kuaisar.folder import write_kuaisar
from pyro_hmvcrl.kuaisar.reading import read_kuaisar
from pyro_hmvcrl.queries.answer import effects, write_effects
from pyro_hmvcrl.queries.interventions import add
from pyro_hmvcrl.queries.population import Population
from pyro_hmvcrl.report import page as page_module
from pyro_hmvcrl.report.page import write_report
from pyro_hmvcrl.report.reading import ReportError
from pyro_hmvcrl.report.run_figures import categories
from pyro_hmvcrl.report.style import to_bytes
from pyro_hmvcrl.run.files import RunError
from pyro_hmvcrl.run.fitting import fit_folder
from pyro_hmvcrl.run.load import load_run
from pyro_hmvcrl.synthetic.design import Design
from pyro_hmvcrl.synthetic.folder import write_simulation
from pyro_hmvcrl.synthetic.simulation import simulate

HALF = b'{"name": "\\ud800", "exposure_covariates": [], "preference_covariates": []}'  # of a character
# --- Dataset folders -----------------------------------------------------------------------------------------


def read_and_write(base: Path) -> None:
    """What can be read has the counts of its events, and is the same after it is written."""
    data = d.attempt(base, lambda: read_dataset(base / "set"), DatasetError)
    if data is None:
        return
    # Columns that are only carried are not read before the events are asked for.
    events = d.attempt(base, lambda: (data.search_events, data.recommendation_events), DatasetError)
    if events is None:
        return
    search, recommendation = events
    assert data.search.sum() == len(search)
    assert data.exposure.sum() == len(recommendation)
    assert data.engagement.sum() == recommendation["engaged"].sum()
    assert all(np.isfinite(data.covariates(channel)).all() for channel in ("platform", "preference"))
    names = data.name, data.users, search, recommendation
    blocks = data.exposure_covariates, data.preference_covariates
    d.attempt(
        base, lambda: write_dataset(base / "again", *names, *blocks, categories=data.categories), DatasetError
    )
    if (base / "again").exists():
        assert np.array_equal(read_dataset(base / "again").search, data.search)


@d.cases(0.2)
@given(
    st.sampled_from(["parquet", "csv"]),
    st.lists(st.tuples(st.sampled_from(d.TABLES), d.CELL), min_size=1, max_size=2),
)
@example(
    "parquet",
    [
        (t, ("column", 0.0, c, v))
        for t, c, v in (("users", 0.0, 2**64 - 1), ("search_events", 0.6, "9" * 5_000))
    ],
)
@example("parquet", [("users", ("column", 0.0, 0.0, b"\xff"))])
@example("parquet", [(t, ("column", 0.0, 0.5, "9" * 5_000)) for t in d.TABLES[1:]])
def test_tables_of_a_dataset(suffix, changes):
    parts = content()
    for stem, change in changes:
        try:
            parts[stem] = d.with_cell(parts[stem], *change)
        except Exception:  # that change cannot be made
            continue
    with d.scratch() as base:
        d.put_any(base / "set", parts, suffix)
        read_and_write(base)


@d.cases(0.15)
@given(st.sampled_from(["parquet", "csv"]), d.WHERE, d.BYTES)
@example("csv", 0.0, ("replace", 0.0, b"[" * 100_000))
@example("csv", 0.0, ("replace", 0.0, HALF))
def test_bytes_of_a_dataset(suffix, file, damage):
    with d.scratch() as base:
        put(base / "set", content(), suffix)
        path = d.pick(file, sorted((base / "set").iterdir()))
        path.write_bytes(d.damaged(path.read_bytes(), *damage))
        read_and_write(base)


@d.cases(0.1)
@given(d.WHERE, d.JSON_VALUE, st.booleans())
@example(0.25, "\ud800", False)
def test_descriptions_of_a_dataset(where, value, rename):
    """Names of anything, in the tables too if `rename`: separators, markup, half of a surrogate pair."""
    parts = content()
    parts["description"]["categories"] = ["shoes", "food", "None"]
    with d.scratch() as base:
        if rename and isinstance(value, str):
            parts["users"] = parts["users"].rename(columns={"wish": value})
            parts["description"] |= {"name": value, "preference_covariates": [value]}
        d.put_any(base / "set", parts, "parquet")
        if not rename:
            d.with_json(base / "set" / "dataset.json", where, value)
        read_and_write(base)


# --- KuaiSAR's files -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kuaisar") / "copy"
    write_kuaisar_copy(folder, users=20, events=0.05)
    return folder


def import_it(base: Path, source: str) -> None:
    """What can be imported accounts for every row, and can be read."""
    read = d.attempt(base, lambda: read_kuaisar(base / source), KuaisarError)
    if read is None:
        return
    for of in read.account.to_dict().values():
        assert of["read"] == of["kept"] + sum(of["dropped"].values())
    d.attempt(base, lambda: write_kuaisar(read, base / "out", min_events=1), DatasetError, KuaisarError)
    if (base / "out").exists():
        assert read_dataset(base / "out").n_users


FILES = ("item_features.csv", "rec_inter.csv", "social_network.csv", "src_inter.csv", "user_features.csv")


@d.cases(0.12)
@given(
    st.sampled_from(FILES),
    d.CSV_CHANGES,
    d.WHERE,
    d.WHERE,
    st.sampled_from(d.CSV_VALUES) | st.text(max_size=4),
)
@example("item_features.csv", "column", 0.0, 0.0, "")
@example("user_features.csv", "cell", 0.0, 0.0, "inf")
@example("user_features.csv", "cell", 0.0, 0.0, "0.5")
@example("rec_inter.csv", "cell", 0.0, 0.34, "1e300")
@example("src_inter.csv", "cell", 0.0, 0.7, "inf")
@example("user_features.csv", "cell", 0.0, 0.75, "1e300")
def test_rows_of_kuaisar(copy, name, how, row, column, value):
    with d.scratch() as base:
        shutil.copytree(copy, base / "copy")
        rows = list(csv.reader(io.StringIO((copy / name).read_text(encoding="utf-8"))))
        with (base / "copy" / name).open("w", encoding="utf-8", errors="replace", newline="") as file:
            csv.writer(file).writerows(d.with_line(rows, how, row, column, value))
        import_it(base, "copy")


@d.cases(0.05)
@given(st.sampled_from(FILES), d.BYTES)
@example("social_network.csv", ("cut", 0.9375, b""))
@example("social_network.csv", ("insert", 0.9375, b"\x80"))
def test_bytes_of_kuaisar(copy, name, damage):
    with d.scratch() as base:
        shutil.copytree(copy, base / "copy")
        (base / "copy" / name).write_bytes(d.damaged((copy / name).read_bytes(), *damage))
        import_it(base, "copy")


@d.cases(0.08)
@given(
    st.sampled_from(["", "KuaiSAR_final/", "../evil/", "/tmp/evil/", "./a//", "a\\b/"]),
    st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]),
    st.none() | d.BYTES,
)
@example("./a//", zipfile.ZIP_STORED, None)
@example("", zipfile.ZIP_STORED, ("over", 0.0, b"PK\x03\x04\x14\x00\x01"))  # looks encrypted
def test_archives_of_kuaisar(copy, inside, compression, damage):
    with d.scratch() as base:
        with zipfile.ZipFile(base / "K.zip", "w", compression) as archive:
            for name in FILES:
                archive.writestr(inside + name, (copy / name).read_bytes()[:60_000])
        if damage:
            (base / "K.zip").write_bytes(d.damaged((base / "K.zip").read_bytes(), *damage))
        import_it(base, "K.zip")
        assert {path.name for path in base.iterdir()} <= {"K.zip", "out"}


# --- Run folders ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A dataset folder and a run folder with an answer in it, of as few draws as will do."""
    base = tmp_path_factory.mktemp("fuzz")
    design = Design(users=80, preference_factors=2, categories=4, edges=())
    write_simulation(simulate(design, 0), base / "data", seed=0, truth=False)
    fit_folder(
        base / "data",
        base / "run",
        Settings(2, 2, restarts=1, steps=5, encoder_steps=3, device="cpu", periods=2),
    )
    tensors, metadata = load_tensors(base / "run" / "posterior.safetensors")
    few = {name: t[:3] if name.startswith(("draws", "placebo")) else t for name, t in tensors.items()}
    save_tensors(base / "run" / "posterior.safetensors", few, metadata)
    write_effects(
        effects(base / "run", [add("exposure_1", 0.1)], extrapolate=True), base / "run" / "effects.json"
    )
    return base


def use(base: Path, asked: bool = False) -> None:
    """Everything that reads a run folder."""
    run = d.attempt(base, lambda: load_run(base / "run"), RunError)
    population = d.attempt(base, lambda: Population.of(base / "run"), RunError)
    if run is not None:
        logs = partial(
            read_dataset, base / "data", categories=run.categories
        )  # which may not be those of the logs
        factors = d.attempt(base, lambda: run.encode(logs()), RunError, DatasetError)
        assert factors is None or np.isfinite(factors.iloc[:, 1:].to_numpy()).all()
    if asked and population is not None:
        shift = [add(population.run.factor_names[0], 0.1)]
        answer = d.attempt(base, lambda: effects(base / "run", shift, extrapolate=True), RunError)
        assert answer is None or json.dumps(answer, allow_nan=False)


def draw(base: Path) -> None:
    """A report, without the time that rendering takes; its names are text."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page_module, "to_bytes", lambda figure, kind: b"")
        page = d.attempt(base, lambda: write_report(base / "run"), ReportError)
    assert page is None or d.EVIL not in page.read_text(encoding="utf-8")


PARTS = (
    *("config.json", "model.safetensors", "posterior.safetensors", "experts.safetensors"),
    "factors.parquet",
)
PARTS += ("covariates.parquet", "graph.csv", "report.json", "effects.json", "training.csv")


@d.cases(0.1)
@given(st.sampled_from(PARTS), d.BYTES)
@example("model.safetensors", ("replace", 0.0, pickle.dumps({"b": 1})))
@example("experts.safetensors", ("cut", 0.5, b""))
@example("report.json", ("replace", 0.0, b"[" * 100_000))
@example("model.safetensors", ("over", 0.6875, b"\x00\x00\xcc"))
def test_bytes_of_a_run(fitted, name, damage):
    with d.scratch() as base:
        shutil.copytree(fitted, base, dirs_exist_ok=True)
        (base / "run" / name).write_bytes(d.damaged((fitted / "run" / name).read_bytes(), *damage))
        (use if name in PARTS[:6] else draw)(base)


@d.cases(0.05)
@given(
    st.sampled_from(PARTS[1:4]),
    st.sampled_from(["drop", "rename", "new", "value", "value", "flat", "twice", "none", "int", "half"]),
    d.WHERE,
    st.sampled_from([float("nan"), float("inf"), 1e30, -1.0]),
)
@example("experts.safetensors", "value", 0.55, 1e30)
@example("experts.safetensors", "value", 0.0, 1e30)
@example("posterior.safetensors", "half", 0.0, 1.0)
def test_tensors_of_a_run(fitted, name, how, where, value):
    with d.scratch() as base:
        shutil.copytree(fitted, base, dirs_exist_ok=True)
        d.with_tensors(base / "run" / name, how, where, value)
        use(base, asked=True)


@d.cases(0.1)
@given(st.sampled_from(["config.json", "report.json", "effects.json"]), d.WHERE, d.JSON_VALUE, st.booleans())
@example("config.json", 0.75, 1.2e-220, False)
@example("config.json", 0.25, "", False)
def test_values_of_a_run(fitted, name, where, value, drawn):
    with d.scratch() as base:
        shutil.copytree(fitted, base, dirs_exist_ok=True)
        d.with_json(base / "run" / name, where, value)
        (draw if drawn or name != "config.json" else use)(base)


@d.cases(0.05)
@given(st.sampled_from(PARTS[4:]).filter(lambda name: not name.endswith("json")), d.CELL)
def test_tables_of_a_run(fitted, name, change):
    with d.scratch() as base:
        shutil.copytree(fitted, base, dirs_exist_ok=True)
        path = base / "run" / name
        csv_file = path.suffix == ".csv"
        try:
            frame = d.with_cell(pd.read_csv(path) if csv_file else pd.read_parquet(path), *change)
            frame.to_csv(path, index=False) if csv_file else frame.to_parquet(path, index=False)
        except Exception:  # that change cannot be made
            shutil.copy(fitted / "run" / name, path)
        use(base)
        draw(base)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("config.json", "platform_factors", 10**9),
        ("config.json", "standardisation", {}),
        ("config.json", "name", d.EVIL),
        ("report.json", "restarts", []),
        ("effects.json", "outcomes", []),
    ],
)
def test_entries_of_a_run(fitted, name, key, value):
    with d.scratch() as base:
        shutil.copytree(fitted, base, dirs_exist_ok=True)
        path = base / "run" / name
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
        use(base)
        draw(base)


def test_too_few_users_to_judge_are_told_before_the_fit(tmp_path):
    write_simulation(simulate(Design(users=60), 0), tmp_path / "data", seed=0, truth=False)
    with pytest.raises(RunError, match="60 users are too few to judge a fit; give 80 or more"):
        fit_folder(tmp_path / "data", tmp_path / "run", Settings(2, 3))


def test_names_with_dollars_are_drawn_as_they_are():
    change = {name: {"mean": 0.1, "lower": 0.0, "upper": 0.2} for name in ("$5 to $x^", "$\\frac$")}
    of = {"raised": list(change), "lowered": [], "change": change}
    assert to_bytes(categories({"platform_1": of}), "svg")


# --- Command lines -------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("default::RuntimeWarning")  # a line on stderr, as for a user
@d.cases(0.1)
@given(d.LINE)
@example(["simulate", "new", "--knob", "users=null"])
@example(["kuaisar", "copy", "--out", "new", "--shift", "popularity"])
@example(["effects", "run", "--shift", "exposure_1=+0.1", "--out", "n/x.json"])
def test_command_lines(fitted, copy, line):
    with d.scratch() as base, pytest.MonkeyPatch.context() as patch:
        shutil.copytree(fitted, base, dirs_exist_ok=True)
        shutil.copytree(copy, base / "copy")
        patch.chdir(base)
        patch.setattr(page_module, "to_bytes", lambda figure, kind: b"")
        before = tree(base)
        with d.within(60):
            said = CliRunner().invoke(app, list(line))
        assert said.exception is None or isinstance(said.exception, SystemExit), repr(said.exception)
        assert said.exit_code in (0, 1, 2)
        if said.exit_code == 1:
            last = said.stderr.rpartition("error: ")[2]
            assert last.count("\n") == 1, said.stderr
            assert len(last) > 8
        if said.exit_code:
            assert tree(base) == before, "left half-written"
