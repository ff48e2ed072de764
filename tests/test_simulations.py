"""Every study runs in its quick form."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

SIMULATIONS = Path(__file__).parent.parent / "simulations"


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    out = tmp_path_factory.mktemp("recovery")
    command = [sys.executable, SIMULATIONS / "recovery.py", "--quick", "--jobs", "1", "--out", out]
    return out, subprocess.run(command, check=True, capture_output=True, text=True), command


def test_recovery_writes_table_summary_and_figure(quick):
    out, said, _ = quick
    results = pd.read_csv(out / "results.csv")
    assert results["design"].tolist()[:2] == ["default", "hard"]
    assert results[["preference_mcc", "platform_mcc", "edge_error"]].notna().all(axis=None)
    assert (out / "recovery.png").stat().st_size > 10_000
    assert "| default | 1 |" in said.stdout


def test_a_study_redoes_only_what_is_missing(quick):
    out, _, command = quick
    before = pd.read_csv(out / "results.csv")
    kept = {p.name: p.stat().st_mtime_ns for p in (out / "replications").glob("*.json")}
    (out / "replications" / "location_only-0.json").unlink()
    subprocess.run(command, check=True, capture_output=True)
    again = {p.name: p.stat().st_mtime_ns for p in (out / "replications").glob("*.json")}
    assert [name for name in again if again[name] != kept[name]] == ["location_only-0.json"]
    pd.testing.assert_frame_equal(
        before.drop(columns="seconds"), pd.read_csv(out / "results.csv").drop(columns="seconds")
    )
