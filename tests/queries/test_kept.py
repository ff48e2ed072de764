"""Claims about the answers that a run keeps: by name, none in another's place."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial

import numpy as np
import pytest

from pyro_hmvcrl.queries.interventions import InterventionError, add, parse_policies, parse_policy
from pyro_hmvcrl.queries.kept import check_names, code_of, file_of, keep, kept
from pyro_hmvcrl.run.files import RunError

ONE = {"kind": "interventional", "shift": ["fee=+1"]}


def night_only(covariates, rng):
    return covariates


def test_answers_are_kept_by_name_and_the_last_is_the_report_s(tmp_path):
    policies = {"A": [add("fee", 1.0)], "a/b: c": [add("fee", 2.0)], "night": night_only}
    keep(tmp_path, policies, {name: ONE for name in policies}, tmp_path / "all.json")
    assert set(kept(tmp_path)) == set(policies)
    assert file_of(tmp_path, "A").name == "A.json"
    assert json.loads((tmp_path / "effects.json").read_text())["policy"] == "night"
    assert list(json.loads((tmp_path / "all.json").read_text())) == list(policies)
    assert kept(tmp_path)["night"]["asked"] == ["night_only"]


def test_a_name_is_of_one_policy(tmp_path):
    keep(tmp_path, {"A": [add("fee", 1.0)]}, {"A": ONE})
    check_names(tmp_path, {"A": [add("fee", 1.0)], "B": [add("fee", 2.0)]}, "interventional")  # asked again
    for change, kind in (([add("fee", 2.0)], "interventional"), ([add("fee", 1.0)], "counterfactual")):
        with pytest.raises(
            RunError, match=r"A\.json: has another answer \(A: fee=\+1, interventional\); give"
        ):
            check_names(tmp_path, {"A": change}, kind)
    for name in ("", "a\nb"):
        with pytest.raises(RunError, match="can be printed"):
            check_names(tmp_path, {name: night_only}, "interventional")
    file_of(tmp_path, "A").write_text("{")
    with pytest.raises(RunError, match=r"A\.json: cannot be read .*delete the file"):
        check_names(tmp_path, {"A": [add("fee", 1.0)]}, "interventional")


@pytest.mark.parametrize("name", ["..", "../x", "a/b", ".lock", "é", "x" * 150, "CON: 1", "a b"])
def test_a_file_of_an_answer_stays_in_its_folder(tmp_path, name):
    path = file_of(tmp_path, name)
    assert path.parent == tmp_path / "answers"
    assert path.name.isascii()
    assert not path.name.startswith(".")
    assert len(path.name) < 90
    assert path != file_of(tmp_path, f"{name} ")


@pytest.mark.parametrize(
    ("text", "name", "shifts"),
    [
        ("A: fee=-0.2", "A", ["fee=-0.2"]),
        ("less of it:fee=-0.2,age:=3", "less of it", ["fee=-0.2", "age:=3"]),
        ("fee:=3", "fee:=3", ["fee:=3"]),
        ("fee=1, age=*2 max 1", "fee=+1, age=*2 max 1", ["fee=+1", "age=*2 max 1"]),
    ],
)
def test_a_policy_is_read_from_text(text, name, shifts):
    assert parse_policy(text)[0] == name
    assert list(map(str, parse_policy(text)[1])) == shifts


def test_policies_of_the_command_line_have_a_name_each():
    found = parse_policies(["fee=1", "age=2"], ["A: fee=3"], counterfactual=False)
    assert list(found) == ["fee=+1, age=+2", "A"]
    assert list(parse_policies([], ["A: fee=3"], counterfactual=True)) == ["A (counterfactual)"]
    assert list(parse_policies(["空\x1b=1"], [], counterfactual=False)) == ["空\\x1b=+1"]
    with pytest.raises(InterventionError, match="no policy is given"):
        parse_policies([], [], counterfactual=False)
    with pytest.raises(InterventionError, match="two policies have one name"):
        parse_policies([], ["A: fee=1", "A: fee=2"], counterfactual=False)
    with pytest.raises(InterventionError, match="write COLUMN"):
        parse_policies([], ["A: fee"], counterfactual=False)


def test_functions_of_one_name_are_told_apart_by_what_they_do(tmp_path):
    def more(by):
        return lambda covariates, rng: covariates + by

    keep(tmp_path, {"<lambda>": more(1.0)}, {"<lambda>": ONE})
    check_names(tmp_path, {"<lambda>": more(1.0)}, "interventional")  # asked again
    for other in (more(2.0), lambda covariates, rng: covariates * 1.0):
        with pytest.raises(RunError, match="has another answer"):
            check_names(tmp_path, {"<lambda>": other}, "interventional")


def test_a_name_may_be_long(tmp_path):
    name = ", ".join(f"autoplay_minutes_{k}=+1" for k in range(9))
    check_names(tmp_path, {name: night_only}, "interventional")


BY = 1.0
SEEN = """
from pyro_hmvcrl.queries.kept import code_of
def nordic(covariates, rng, *, by=1.0):
    return covariates["land"].isin(()) or "SE" in {"NO", "SE", "DK"}
print(code_of(nordic))
"""


def test_a_function_is_known_again_in_another_session():
    seen = {
        subprocess.run(
            [sys.executable, "-c", SEEN],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(seen) == 1
    assert seen != {"None\n"}


def test_a_function_is_another_with_other_values_around_it(monkeypatch):
    def of_list(values):
        return lambda covariates, rng: covariates + values[0]

    def with_default(by):
        def policy(covariates, rng, *, size=by):
            return covariates + size

        return policy

    def of_module(covariates, rng):
        return covariates + BY

    assert code_of(of_list([1])) == code_of(of_list([1])) != code_of(of_list([5]))
    assert code_of(of_list(np.ones(3))) != code_of(of_list(np.zeros(3)))
    assert code_of(with_default(1.0)) != code_of(with_default(9.0))
    before = code_of(of_module)
    monkeypatch.setitem(globals(), "BY", 2.0)
    assert code_of(of_module) != before


def test_of_a_function_that_cannot_be_known_the_name_serves(tmp_path):
    keep(tmp_path, {"cap": partial(night_only)}, {"cap": ONE})
    check_names(tmp_path, {"cap": partial(night_only)}, "interventional")
    path = file_of(tmp_path, "cap")
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "code"}))
    check_names(tmp_path, {"cap": partial(night_only)}, "interventional")  # kept by an earlier version


def test_functions_that_call_one_another_are_looked_into_once():
    def one(covariates, rng, n=3):
        return other(covariates, rng, n - 1) if n else np.clip(covariates, 0, 1)

    def other(covariates, rng, n):
        return one(covariates, rng, n)

    before = code_of(one)
    assert before == code_of(one)
    assert before is not None
    assert code_of(other) not in (before, None)
