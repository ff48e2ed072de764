"""Answers that a run keeps, each under its policy's name: none takes another's place."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from inspect import getclosurevars, ismodule
from pathlib import Path
from pickle import PicklingError
from types import CodeType, FunctionType
from typing import Any

import joblib

from pyro_hmvcrl.data.files import read_json
from pyro_hmvcrl.inference.writing import alone_in
from pyro_hmvcrl.queries.answer import write_effects
from pyro_hmvcrl.queries.interventions import Policy, Shift
from pyro_hmvcrl.queries.question import words_of
from pyro_hmvcrl.run.files import RunError, of_file

FOLDER = "answers"  #: in a run folder
MOST = 60  #: characters of a file's name that are the policy's
MEND = "ask again, or delete the file"


def file_of(run: Path, policy: str) -> Path:
    """Where a run keeps the answer on a policy of this name."""
    plain = re.sub(r"[^\w.+=*-]+", "_", policy, flags=re.ASCII)[:MOST]
    if plain != policy or plain.startswith("."):
        plain = f"{plain.lstrip('.')}-{blake2b(policy.encode(), digest_size=4).hexdigest()}"
    return run / FOLDER / f"{plain}.json"


def check_names(run: Path, policies: Mapping[str, Policy | Sequence[Shift]], kind: str) -> None:
    """Say before the work that a name cannot be one, or is that of another policy.

    Raises
    ------
    RunError
        If so.
    """
    for name, change in policies.items():
        if not name or not name.isprintable():
            raise RunError(
                f"policy {name[:MOST]!r}: a name must have letters that can be printed; give another"
            )
        path = file_of(run, name)
        if not path.exists():
            continue
        with of_file(path, MEND):
            there = read_json(path)
            same = (there["policy"], there["asked"], there["kind"]) == (name, words_of(change), kind)
            same &= _same_code(there.get("code"), code_of(change))
            said = f"{there['policy']}: {', '.join(there['asked'])}, {there['kind']}"
        if not same:
            raise RunError(
                f"{path}: has another answer ({said}); give the policy another name, or delete the file"
            )


def code_of(change: Policy | Sequence[Shift], inside: tuple[object, ...] = ()) -> str | None:
    """A digest of what a function does and of the values that it takes from around it; None: it cannot be known.

    Two of one name are told apart by it, on one version of Python.  Functions of its module that it calls are looked
    into, but for those that it is looked at `inside` of; others go by their names.
    """
    if not isinstance(change, FunctionType):
        return None
    code = change.__code__

    def plain(value: Any) -> Any:
        if isinstance(value, CodeType):  # without where it stands
            return value.co_code, plain(value.co_consts), value.co_names
        if isinstance(value, frozenset):
            return set(value)
        return tuple(map(plain, value)) if isinstance(value, tuple) else value

    def held(of: Any) -> Any:
        if not callable(of):
            return of
        own = getattr(of, "__module__", "") == change.__module__ and of not in inside
        return code_of(of, (*inside, change)) if own else getattr(of, "__qualname__", "")

    try:
        around = getclosurevars(change)
        taken = {**around.nonlocals, **around.globals}
        holds = {name: held(of) for name, of in taken.items() if not ismodule(of) and of is not change}
        return str(
            joblib.hash(
                (sys.version_info[:2], plain(code), change.__defaults__, change.__kwdefaults__, holds)
            )
        )
    except (TypeError, ValueError, AttributeError, PicklingError):
        return None


def _same_code(one: str | None, other: str | None) -> bool:
    return one is None or other is None or one == other


def keep(
    run: Path,
    policies: Mapping[str, Policy | Sequence[Shift]],
    answers: Mapping[str, dict[str, Any]],
    out: Path | None = None,
) -> None:
    """Keep answers by name, and the last of them in ``effects.json`` too, which the report tells of at length.

    And write them to `out`: of one policy its answer, of several by their names.
    """
    own = {
        name: {"policy": name, "asked": words_of(change), "code": code_of(change)} | answers[name]
        for name, change in policies.items()
    }
    last = list(own.values())[-1]
    with alone_in(run):
        (run / FOLDER).mkdir(exist_ok=True)
        for name, answer in own.items():
            write_effects(answer, file_of(run, name))
        if out is not None:
            write_effects(own if len(own) > 1 else last, out)
        write_effects(last, run / "effects.json")


def kept_files(run: Path) -> Iterable[Path]:
    """The files of the answers that a run keeps, in the order of their names."""
    return sorted((run / FOLDER).glob("*.json"))


def kept(run: Path) -> dict[str, dict[str, Any]]:
    """The answers that a run keeps, by name.

    Raises
    ------
    RunError
        If a file cannot be read.
    """
    found = {}
    for path in kept_files(run):
        with of_file(path, MEND):
            answer = read_json(path)
            found[str(answer["policy"])] = answer
    return found
