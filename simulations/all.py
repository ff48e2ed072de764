"""All studies: run what is missing, and check that what is committed is what the present code finds.

``python simulations/all.py`` runs every study after the other; each goes on where it was.  With ``--check`` nothing
runs, and two things are looked at for each study:

* whether the code that its rows were made by has changed since, and where, and none of them has been repeated since;
* whether each number in its section of ``README.md`` stands in its summary, as it is or as a percentage.

With ``--again`` one replication of each study and each commit that made its rows, drawn at random, is run anew and
compared digit for digit (but of ``real``, whose logs users bring; without them its tables are written again).  What
comes out the same is kept in ``repeated.csv``: a change of the code since has not moved these rows.

``--of recovery effects`` takes these studies alone.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from pyro_hmvcrl.inference.writing import whole_file

from study import code_commit

HERE = Path(__file__).parent
#: Of whose rows every one has a name and a commit.
STUDIES = (
    "identifiability",
    "peers",
    "effects",
    "calibration",
    "robustness",
    "learning_platform",
    "backtest",
    "selecting",
    "real",
    "edges",
    "ranking",
    "many",
    "outcomes",
    "nuts",
    "recovery",
)
BENCHMARKS = ("cost", "floor", "race", "kuaisar_cost")  #: they measure this machine, and start anew
VERDICTS = "report/verdicts.py"  #: what checks come to, which studies count
#: Rooms of the package by which a study's figures may change.
ROOMS = ("data", "evidence", "guide", "inference", "queries", "run", "story", "synthetic", VERDICTS)
#: Words, before or after a number in a text, by which it is of something else than the study's tables.
NOT_MEASURED = re.compile(r"`[^`]*`|\]\([^)]*\)|commit \w+|\d+ seeds?|seeds? [\d, and]+")
NUMBER = re.compile(r"(?<![\w.])[−-]?\d[\d,]*(?:\.\d+)?(?![\w])")
NAMED = 3  #: files, where more have changed
REPEATED = "repeated.csv"
TIMES = ("seconds",)  #: columns that no second run gives again


def main() -> None:
    """Run, check or repeat."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="say what is old, missing or nowhere in a table")
    parser.add_argument("--again", action="store_true", help="run one replication of each anew, and compare")
    parser.add_argument("--of", nargs="+", choices=STUDIES + BENCHMARKS, default=STUDIES + BENCHMARKS)
    o = parser.parse_args()
    studies = [name for name in o.of if name in STUDIES]
    if o.check:
        found = [f"{name}: {what}" for name in studies for what in check(name)]
    elif o.again:
        found = [f"{name}: {what}" for name in studies if name != "real" for what in again(name)]
    else:
        found = [f"{name}: failed" for name in o.of if study(name).returncode]
    print("\n".join(found) or "all is as it should be")
    sys.exit(bool(found))


def study(name: str, *words: object) -> subprocess.CompletedProcess[bytes]:
    """Run a study."""
    return subprocess.run([sys.executable, HERE / f"{name}.py", *map(str, words)], check=False)


# --- What is committed -------------------------------------------------------------------------------------------


def tables(folder: Path) -> dict[str, pd.DataFrame]:
    """A study's tables, by their names."""
    paths = sorted(folder.glob("*.csv"))
    return {path.stem: pd.read_csv(path, dtype={"replication": str, "commit": str}) for path in paths}


def check(name: str) -> Iterator[str]:
    """What is not as it should be with a study's tables and its text."""
    of_study = tables(HERE / name)
    if not of_study:
        yield "has no table"
        return
    made = pd.concat([frame[["replication", "commit"]] for frame in of_study.values()]).drop_duplicates()
    for commit, of_commit in made.groupby("commit"):
        changed = changed_since(str(commit), name)
        if changed and not repeated(name, str(commit)):
            some = ", ".join(changed[:NAMED]) + f" and {len(changed) - NAMED} more" * (len(changed) > NAMED)
            yield f"{len(of_commit)} of {len(made)} replications are of {commit}, before changes of {some}"
    missing = nowhere(section(name), (HERE / name / "summary.md").read_text())
    if missing:
        yield f"numbers of the text that stand nowhere in the summary: {', '.join(missing)}"


def changed_since(commit: str, name: str) -> list[str]:
    """Files that may move a study's figures and that are not as they were at a commit."""
    watched = [
        *(f"pyro_hmvcrl/{room}" for room in ROOMS),
        *(f"simulations/{own}.py" for own in files_of(name)),
    ]
    words = ["git", "-C", str(HERE.parent), "diff", "--name-only", commit.rstrip("+"), "--", *watched]
    found = subprocess.run(words, capture_output=True, text=True, check=False)
    if found.returncode:
        return ["a commit that is not here"]
    return [path for path in found.stdout.split() if not re.search(r"/__init__\.|/(finn|yambda)/", path)]


def files_of(name: str) -> set[str]:
    """The study and what it takes from its neighbours, by way of others too."""
    found, new = set[str](), {name}
    while new:
        found |= new
        texts = [path.read_text() for of in new if (path := HERE / f"{of}.py").exists()]
        taken = {of for text in texts for of in re.findall(r"^from (\w+) import", text, re.MULTILINE)}
        new = {of for of in taken if (HERE / f"{of}.py").exists()} - found
    return found


def repeated(name: str, made: str) -> bool:
    """Whether one of the rows that a commit made has come out the same by code that is as it is now."""
    if not (HERE / REPEATED).exists():
        return False
    rows = pd.read_csv(HERE / REPEATED, dtype=str)
    by = rows.loc[(rows["study"] == name) & (rows["made"] == made), "by"]
    return any(not changed_since(commit, name) for commit in by)


def section(name: str) -> str:
    """The study's part of the text: its row of the table, and the section with its link."""
    text = (HERE / "README.md").read_text()
    sections = re.split(r"^## ", text, flags=re.MULTILINE)
    own = [part for part in sections[1:] if f"[study]({name}.py)" in part]
    row = re.findall(rf"^\| \[{name.replace('_', ' ')}\].*$", text, flags=re.MULTILINE)
    return "\n".join(row + own)


def nowhere(text: str, summary: str) -> list[str]:
    """Numbers with a point in the text that the summary has not: rounded as there, in size, or as percentages."""
    there = np.array([abs(_value(n)) for n in NUMBER.findall(summary)])
    there = np.concatenate([there, 100 * there])
    missing = []
    for found in NUMBER.findall(NOT_MEASURED.sub(" ", text)):
        digits = len(found.partition(".")[2])
        near = np.abs(there - abs(_value(found))) <= 0.5001 * 10.0**-digits
        if digits and not near.any():
            missing.append(found)
    return missing


def _value(number: str) -> float:
    return float(number.replace("−", "-").replace(",", ""))


# --- Once more ---------------------------------------------------------------------------------------------------


def again(name: str) -> Iterator[str]:
    """Run a replication of each commit's anew that is drawn at random; what comes out otherwise."""
    committed, rng = tables(HERE / name), np.random.default_rng()
    for made, rows in committed["results"].groupby("commit"):
        chosen = rng.choice(sorted(rows["replication"].unique()))
        found = list(compared(name, committed, chosen))
        by = code_commit()
        if not found and not by.endswith("+"):
            _keep({"study": name, "replication": chosen, "made": made, "by": by})
        yield from found


def _keep(row: dict[str, str]) -> None:
    path = HERE / REPEATED
    before = [pd.read_csv(path, dtype=str)] if path.exists() else []
    with whole_file(path) as file:
        pd.concat([*before, pd.DataFrame([row])]).to_csv(file, index=False)


def compared(name: str, committed: dict[str, pd.DataFrame], chosen: str) -> Iterator[str]:
    """What comes out otherwise when a replication is run anew."""
    with tempfile.TemporaryDirectory() as folder:
        if study(name, "--only", chosen, "--jobs", 1, "--out", folder).returncode:
            yield f"{chosen}: failed"
            return
        anew = tables(Path(folder))
    for table_name, frame in committed.items():
        before = frame[frame["replication"] == chosen]
        differing = [] if before.empty else list(differences(before, anew[table_name]))
        if differing:
            yield f"{chosen}: table {table_name} differs in {', '.join(differing)}"


def differences(before: pd.DataFrame, anew: pd.DataFrame) -> Iterator[str]:
    """Columns that are not the same, but for times and commits."""
    if len(before) != len(anew):
        yield "its number of rows"
        return
    for column in before.columns.drop(["commit", *TIMES], errors="ignore"):
        one, other = (frame[column].reset_index(drop=True) for frame in (before, anew))
        if not one.equals(other):
            yield column


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
