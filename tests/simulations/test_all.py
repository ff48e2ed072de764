"""Claims about ``simulations/all.py``, by which tables and texts are checked, and of the smaller studies."""

from __future__ import annotations

import importlib
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from studies import run_quick

SIMULATIONS = Path(__file__).parents[2] / "simulations"


@pytest.fixture(scope="module")
def every():
    return importlib.import_module("all")


def test_every_study_is_named_once(every):
    """A file with a protocol is a study; the others are what studies share."""
    files = {p.stem for p in SIMULATIONS.glob("*.py") if "Performance   " in p.read_text()}
    assert files == {*every.STUDIES, "race"}
    assert not set(every.STUDIES) & set(every.BENCHMARKS)
    assert all((SIMULATIONS / f"{name}.py").exists() for name in every.BENCHMARKS)


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("0.94 of 30 seeds, and 94.2% cover", []),
        ("a bias of −0.013 ± 0.002", []),
        ("0.95", ["0.95"]),  # the summary's 0.942 is 0.94
        ("at most 1.3%, in `--share 0.77`, see [the 0.66](a0.55.md)", ["0.66"]),
    ],
)
def test_numbers_of_the_text_must_stand_in_the_summary(every, text, missing):
    assert every.nowhere(text, "| coverage | 0.942 | bias | -0.013 ± 0.002 |") == missing


def test_a_change_of_the_code_makes_rows_old(every, monkeypatch, tmp_path):
    def git(*words):
        name = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *name, *words], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    verdicts = "pyro_hmvcrl/report/verdicts.py"
    package = ("pyro_hmvcrl/story/model.py", "pyro_hmvcrl/report/page.py", verdicts)
    for path in (*package, "simulations/peers.py", "simulations/methods.py", "simulations/rivals.py"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("1\n")
    (tmp_path / "simulations/peers.py").write_text("from methods import vae\n")
    (tmp_path / "simulations/methods.py").write_text("from rivals import cca\n")
    git("init")
    git("add", "-A")
    git("commit", "-m", "one")
    commit = git("rev-parse", "--short", "HEAD")
    monkeypatch.setattr(every, "HERE", tmp_path / "simulations")
    assert every.changed_since(commit, "peers") == []
    (tmp_path / "pyro_hmvcrl/report/page.py").write_text("2\n")  # of which no figure hangs
    assert every.changed_since(commit, "peers") == []
    (tmp_path / "simulations/peers.py").write_text("from methods import vae  # 2\n")
    assert every.changed_since(commit, "peers") == ["simulations/peers.py"]
    assert every.changed_since(commit, "effects") == []
    (tmp_path / "pyro_hmvcrl/story/model.py").write_text("2\n")
    assert every.changed_since(commit, "effects") == ["pyro_hmvcrl/story/model.py"]
    (tmp_path / verdicts).write_text("2\n")
    assert verdicts in every.changed_since(commit, "effects")
    (tmp_path / "simulations/rivals.py").write_text("2\n")  # by way of another
    assert "simulations/rivals.py" in every.changed_since(commit, "peers")
    assert "simulations/rivals.py" not in every.changed_since(commit, "effects")
    assert every.changed_since("0123456", "effects") == ["a commit that is not here"]


def test_another_digit_is_seen_and_other_seconds_are_not(every):
    before = pd.DataFrame({"replication": ["a"], "commit": ["1"], "mcc": [0.1], "seconds": [3.0]})
    same = before.assign(commit="2", seconds=4.0)
    assert list(every.differences(before, same)) == []
    assert list(every.differences(before, same.assign(mcc=0.1 + 1e-15))) == ["mcc"]
    assert list(every.differences(before, pd.concat([same, same]))) == ["its number of rows"]


@pytest.mark.parametrize(
    ("study", "n_rows"),
    [("selecting", 1), ("edges", 2 * 3 * 3), ("ranking", 11), ("many", 12), ("outcomes", 12), ("nuts", 19)],
)
def test_a_small_study_leaves_tables_a_text_and_a_figure(study, n_rows, tmp_path):
    run_quick(study, tmp_path)
    rows = pd.read_csv(tmp_path / "results.csv")
    assert rows["replication"].eq("world-0").all()
    assert len(rows) == n_rows
    assert "Fits that failed: 0." in (tmp_path / "summary.md").read_text()
    assert (tmp_path / f"{study}.png").stat().st_size > 10_000
    if study == "edges":
        assert importlib.import_module(study).performance(rows)["number"].tolist()[::2] == [15, 3]
    if study == "ranking":
        assert rows.set_index("method")["AUC"].idxmax() == "oracle"


def test_rankings_are_judged_as_by_hand():
    """Of six categories one user likes the first and the last, another none."""
    judged = importlib.import_module("ranking").judged
    liked = np.array([[1, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0]], bool)
    found = judged(np.array([[6.0, 5, 4, 3, 2, 1], [1.0, 2, 3, 4, 5, 6]]), liked)
    assert found["NDCG@5"] == pytest.approx(1 / (1 + 1 / np.log2(3)))
    assert found["Recall@5"] == 0.5
    assert found["AUC"] == 0.5  # all four of the others are below the first, and above the last


def test_rows_that_come_out_the_same_are_of_the_present_code(every, monkeypatch, tmp_path):
    (tmp_path / "peers").mkdir()
    rows = pd.DataFrame({"replication": ["a-0", "a-1", "b-0"], "commit": ["one", "one", "two"], "mcc": 0.9})
    rows.to_csv(tmp_path / "peers" / "results.csv", index=False)
    (tmp_path / "peers" / "summary.md").write_text("")
    (tmp_path / "README.md").write_text("")
    monkeypatch.setattr(every, "HERE", tmp_path)
    monkeypatch.setattr(every, "changed_since", lambda commit, _: [] if commit == "three" else ["model.py"])
    monkeypatch.setattr(every, "code_commit", lambda: "three")
    monkeypatch.setattr(every, "compared", lambda name, committed, chosen: ["mcc"] * chosen.startswith("b"))
    assert len(list(every.check("peers"))) == 2
    assert list(every.again("peers")) == ["mcc"]
    [left] = every.check("peers")
    assert "1 of 3 replications are of two" in left
    monkeypatch.setattr(every, "changed_since", lambda *_: ["model.py"])  # and the code has moved on
    assert len(list(every.check("peers"))) == 2
    monkeypatch.setattr(every, "code_commit", lambda: "three+")
    monkeypatch.setattr(every, "compared", lambda *_: [])
    kept = (tmp_path / "repeated.csv").read_bytes()
    assert list(every.again("peers")) == []
    assert (tmp_path / "repeated.csv").read_bytes() == kept  # code that is not committed proves nothing
