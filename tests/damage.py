"""Damage for the fuzz tests: strategies, and functions that do to bytes, JSON, tables or tensors what was drawn."""

from __future__ import annotations

import json
import os
import pickle
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from folders import TABLES, put, tree
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from pyro_hmvcrl.inference.checkpoints import load_tensors, save_tensors
from pyro_hmvcrl.synthetic.design import Design

CASES = int(os.environ.get("HMVCRL_CASES", "200"))


def cases(share: float) -> settings:
    """A test's part of all cases."""
    return settings(
        max_examples=max(1, round(share * CASES)),
        deadline=None,
        derandomize=CASES <= 200,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


EVIL = "<script>alert('$x^2')</script>"

WHERE = st.floats(0, 1, exclude_max=True)
JUNK = [
    b"",
    b"null",
    b"[]",
    b"{}",
    b"\xff\xfe\x00",
    b'{"name": "\\ud800"}',
    b"[" * 100_000,
    b"PK\x03\x04",
    b"PAR1",
]
JUNK += [pickle.dumps({"b": 1}), b"a,b\n1\n", b'"', b"\xef\xbb\xbf"]
BYTES = st.one_of(
    st.tuples(st.just("cut"), WHERE, st.just(b"")),
    st.tuples(st.just("replace"), WHERE, st.sampled_from(JUNK) | st.binary(max_size=200)),
    st.tuples(st.just("insert"), WHERE, st.sampled_from(JUNK[:5]) | st.binary(min_size=1, max_size=9)),
    st.tuples(st.just("over"), WHERE, st.binary(min_size=1, max_size=9)),
)
VALUES = [
    None,
    float("nan"),
    float("inf"),
    -1e308,
    1e300,
    1e30,
    2**63,
    -1,
    0,
    0.5,
    10**9,
    True,
    "",
    "x",
    "007",
]
VALUES += ["../x", "/etc/x", '"', "a,b\n", "\x00", "9" * 5_000, EVIL, "nan", [], [1], {}, {"a": 1}, b"\xff"]
VALUE = st.sampled_from(VALUES) | st.text(max_size=5) | st.floats() | st.integers()
JSON_VALUE = VALUE.filter(lambda value: not isinstance(value, bytes))


def damaged(whole: bytes, how: str, where: float, what: bytes) -> bytes:
    at = int(where * len(whole))
    rest = {"cut": b"", "replace": b"", "insert": whole[at:], "over": whole[at + len(what) :]}[how]
    return what if how == "replace" else whole[:at] + what + rest


def pick(where: float, among: Any) -> Any:
    return list(among)[int(where * len(among))]


def places(inside: Any) -> list[tuple[Any, Any]]:
    """Every entry of a JSON document: its holder and its key."""
    keys = inside if isinstance(inside, dict) else range(len(inside)) if isinstance(inside, list) else ()
    return [place for key in keys for place in [(inside, key), *places(inside[key])]]


def with_json(path: Path, where: float, value: Any) -> None:
    """Another value somewhere in a JSON file; None takes the entry out."""
    whole = json.loads(path.read_text())
    holder, key = pick(where, places(whole))
    if value is None:
        del holder[key]
    else:
        holder[key] = value
    path.write_text(json.dumps(whole))


def with_cell(frame: pd.DataFrame, how: str, row: float, column: float, value: Any) -> pd.DataFrame:
    """A table with one thing changed."""
    name = pick(column, frame.columns)
    if how == "cell":
        values = frame[name].tolist()
        values[int(row * len(values))] = value
        return frame.assign(**{name: pd.Series(values, dtype=object)})
    if how == "column":
        return frame.assign(**{name: pd.Series([value] * len(frame), dtype=object)})
    if how == "twice":
        return pd.concat([frame, frame[[name]]], axis=1)
    if how == "type":
        kind = pick(row, ["str", "float32", "category", "bool", "datetime64[ns]", "uint64", "float16"])
        return frame.assign(**{name: frame[name].astype(kind)})
    return {
        "drop": lambda: frame.drop(columns=name),
        "rename": lambda: frame.rename(columns={name: str(value)}),
        "empty": lambda: frame.iloc[:0],
        "again": lambda: pd.concat([frame, frame.iloc[[int(row * len(frame))]]], ignore_index=True),
        "unknown": lambda: frame.assign(user_id=str(value)),
    }[how]()


CHANGES = ["cell"] * 5 + ["column", "twice", "type", "drop", "rename", "empty", "again", "unknown"]
CELL = st.tuples(st.sampled_from(CHANGES), WHERE, WHERE, VALUE)


CSV_CHANGES = st.sampled_from(
    ["cell"] * 4 + ["column", "drop", "twice", "short", "long", "again", "empty", "rename"]
)
CSV_VALUES = [
    "",
    "nan",
    "inf",
    "-1",
    "0.5",
    "1e300",
    "9" * 30,
    "x",
    '"',
    'a"b',
    "\n",
    "[1, 2]",
    "[",
    "\x00",
    "空",
    "../x",
]


def with_line(rows: list[list[str]], how: str, row: float, column: float, value: str) -> list[list[str]]:
    """The lines of a file with one thing changed."""
    i, j = 1 + int(row * (len(rows) - 1)), int(column * len(rows[0]))
    new = [list(r) for r in rows]
    if how in ("cell", "column"):
        for r in new[1:] if how == "column" else [new[i]]:
            r[j] = value
    elif how in ("drop", "twice"):
        new = [r[:j] + r[j + (how == "drop") :] if how == "drop" else [*r, r[j]] for r in new]
    elif how in ("short", "long"):
        new[i] = new[i][:j] if how == "short" else [*new[i], value]
    elif how in ("again", "empty"):
        new = [*new, new[i]] if how == "again" else new[:1]
    else:
        new[0][j] = value
    return new


def with_tensors(path: Path, how: str, where: float, value: float) -> None:
    """Another tensor, name or type somewhere in a file of tensors."""
    tensors, metadata = load_tensors(path)
    name = pick(where, tensors)
    t = tensors.pop(name)
    t = t.clone()
    if how == "value" and t.is_floating_point():
        t.view(-1)[:1] = value
    new = {"drop": {}, "rename": {f"{name}x": t}, "new": {name: t, "a/b/c": t.clone()}, "value": {name: t}}
    new |= {
        "flat": {name: t.flatten()},
        "twice": {name: torch.cat([t[None], t[None]])},
        "none": {name: t[:0] if t.ndim else t},
    }
    new |= {"int": {name: t.to(torch.int32)}, "half": {name: t.half()}}
    save_tensors(path, tensors | new[how], metadata)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """No hang."""

    def late(*_: Any) -> None:
        raise AssertionError(f"not done after {seconds} seconds")

    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def put_any(folder: Path, parts: dict[str, Any], suffix: str) -> None:
    """A folder as :func:`put` writes it; a table that Parquet cannot hold, as CSV."""
    put(
        folder, {stem: parts[stem].iloc[:0] for stem in TABLES} | {"description": parts["description"]}, "csv"
    )
    for stem in TABLES:
        (folder / f"{stem}.csv").unlink()
        try:
            if suffix == "csv":
                raise ValueError
            parts[stem].to_parquet(folder / f"{stem}.parquet", index=False)
        except Exception:
            (folder / f"{stem}.parquet").unlink(missing_ok=True)
            parts[stem].to_csv(folder / f"{stem}.csv", index=False, errors="replace")


# --- Command lines ---

WORD = st.sampled_from(
    ["1", "2", "", "x", "-1", "0", "nan", "inf", "1e400", "9" * 30, "null", "[[]]", "\x00", "NaT", "'", "--"]
)
SHIFTS = st.builds("{}{}{}{}".format, st.sampled_from(["exposure_1", "platform", "x", ""]) | WORD,
                   st.sampled_from(["=", ":=", "==", ""]), st.sampled_from(["+1", "9" * 400, "+"]) | WORD,
                   st.sampled_from(["", "sd", "SD", "sdsd", "%"]))  # fmt: skip
KNOBS = st.builds(
    "{}={}".format, st.sampled_from([*map(str, Design.__dataclass_fields__)]) | WORD, WORD | st.just("[3, 2]")
)
PLACES = st.sampled_from(
    ["nowhere/x", "run", "data", "copy", "data/dataset.json", "new", "run/graph.csv", "", "\x00", "n" * 300]
)
LINE = st.one_of(
    st.tuples(st.just("effects"), PLACES, st.just("--shift"), SHIFTS, st.just("--out"), PLACES),
    st.tuples(st.just("effects"), st.just("run"), st.just("--shift"), SHIFTS, st.just("--out"), st.just("x.json")),
    st.tuples(st.just("effects"), PLACES, st.just("--shift=x=1"), st.just("--level"), WORD, st.just("--out=x")),
    st.tuples(st.just("encode"), PLACES, PLACES, st.just("--out"), PLACES | st.sampled_from(["a.csv", "n/a.csv"])),
    st.tuples(st.sampled_from(["report", "fit", "encode", "import-kuaisar", "kuaisar", "", "y"]), PLACES | WORD),
    st.tuples(st.just("simulate"), PLACES, st.just("--users"), st.just("20"), st.just("--knob"), KNOBS),
    st.tuples(st.just("simulate"), PLACES, st.just("--seed"), WORD, st.sampled_from(["--users", "--format"]), WORD),
    st.tuples(st.just("simulate"), PLACES, st.just("--format"), st.just("kuaisar"), st.just("--events"), WORD),
    st.tuples(st.just("fit"), PLACES, st.just("--out"), PLACES, st.just("--platform-factors"), WORD,
              st.just("--preference-factors"), st.just("1"), st.sampled_from(["--device", "--seed", "--steps"]), WORD),
    st.tuples(st.just("import-kuaisar"), PLACES, PLACES, st.sampled_from(["--since", "--until", "--level"]), WORD),
    st.tuples(st.just("import-finn"), PLACES, PLACES, st.sampled_from(["--users", "--level", "--exposure"]), WORD),
    st.tuples(st.just("import-yambda"), PLACES, PLACES, st.sampled_from(["--users", "--days", "--categories"]), WORD),
    st.tuples(st.just("kuaisar"), PLACES, st.just("--out"), PLACES, st.just("--shift"), SHIFTS),
)  # fmt: skip


# --- The property ---


def attempt(place: Path, do: Callable[[], Any], *errors: type[Exception]) -> Any:
    """What `do` gives, or None where it ended in one of these errors, whole and clear."""
    before = tree(place)
    try:
        with within(60):
            return do()
    except errors as error:
        said = str(error)
        assert any(name.name in said for name in place.rglob("*")), said
        assert any(sign in said for sign in ("; ", "choose", "write ", "give ", "make it")), said
        assert tree(place) == before, "left half-written"
    return None


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder of one case: fixtures would last for all of them."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)
