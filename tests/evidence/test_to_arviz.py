"""The same claims hold on ArviZ 0.23 and on 1.x. No torch needed."""

from __future__ import annotations

import math
from pathlib import Path

import arviz
import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from pyro_hmvcrl.evidence.to_arviz import inference_data, pareto_k, save_netcdf, summary

DRAWS, USERS = 2000, 50
FACTORS = ["platform_1", "platform_2", "preference_1"]


@pytest.fixture
def draws() -> dict[str, dict[str, np.ndarray]]:
    """Exact posterior of a normal mean (known variance 1, flat prior), beside an unrelated vector."""
    rng = np.random.default_rng(1)
    y = rng.normal(0.5, 1.0, USERS)
    mean = rng.normal(y.mean(), 1 / math.sqrt(USERS), DRAWS)
    return {
        "posterior": {"mean": mean, "weight": rng.normal([0.0, 1.0, 2.0], [1.0, 2.0, 3.0], (DRAWS, 3))},
        "observed_data": {"y": y},
        "log_likelihood": {"y": norm.logpdf(y, mean[:, None], 1.0)},
        "posterior_predictive": {"y": rng.normal(mean[:, None], 1.0, (DRAWS, USERS))},
    }


@pytest.fixture
def idata(draws):
    dims = {"weight": ["factor"], "y": ["user"]}
    return inference_data(**draws, coords={"factor": FACTORS, "user": range(100, 100 + USERS)}, dims=dims)


def assert_holds(idata, draws) -> None:
    for group, arrays in draws.items():
        leading = () if group == "observed_data" else ("chain", "draw")
        for name, array in arrays.items():
            stored = idata[group][name]
            trailing = {"mean": (), "weight": ("factor",), "y": ("user",)}[name]
            assert stored.dims == leading + trailing
            np.testing.assert_array_equal(stored.values, array[np.newaxis] if leading else array)
    assert idata["posterior"]["weight"].coords["factor"].values.tolist() == FACTORS
    assert idata["observed_data"]["y"].coords["user"].values[0] == 100


def test_values_survive_under_named_dimensions_and_one_chain(idata, draws) -> None:
    assert_holds(idata, draws)
    assert idata["posterior"].sizes["chain"] == 1


def test_posterior_alone_is_enough(draws) -> None:
    idata = inference_data(draws["posterior"])
    assert idata["posterior"]["weight"].shape == (1, DRAWS, 3)
    assert "log_likelihood" not in list(idata.groups() if callable(idata.groups) else idata.children)


@pytest.mark.parametrize("kind", ["category", "string"])
def test_labels_may_come_from_pandas(kind: str, draws, tmp_path: Path) -> None:
    labels = pd.Series(FACTORS, dtype=kind)
    idata = inference_data(draws["posterior"], coords={"factor": labels}, dims={"weight": ["factor"]})
    save_netcdf(idata, tmp_path / "posterior.nc")
    back = arviz.from_netcdf(tmp_path / "posterior.nc")
    assert back["posterior"]["factor"].values.tolist() == FACTORS


def test_unequal_numbers_of_draws_are_refused() -> None:
    with pytest.raises(ValueError, match="posterior: every site needs the same number of draws"):
        inference_data({"a": np.zeros(10), "b": np.zeros((11, 2))})


def test_netcdf_round_trip(idata, draws, tmp_path: Path) -> None:
    save_netcdf(idata, tmp_path / "posterior.nc")
    assert_holds(arviz.from_netcdf(tmp_path / "posterior.nc"), draws)


def test_what_was_read_can_be_written_back_over_its_own_file(idata, draws, tmp_path: Path) -> None:
    path = tmp_path / "posterior.nc"
    save_netcdf(idata, path)
    save_netcdf(arviz.from_netcdf(path), path)
    assert_holds(arviz.from_netcdf(path), draws)


def test_failed_write_leaves_the_old_file_and_nothing_else(idata, tmp_path: Path) -> None:
    path = tmp_path / "posterior.nc"
    path.write_bytes(b"old")
    unwritable = inference_data({"a": np.array([object()] * 3)})
    with pytest.raises((TypeError, ValueError)):
        save_netcdf(unwritable, path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_loo_agrees_with_the_exact_leave_one_out_density(idata, draws) -> None:
    y = draws["observed_data"]["y"]
    others = (y.sum() - y) / (USERS - 1)
    exact = norm.logpdf(y, others, math.sqrt(1 + 1 / (USERS - 1))).sum()
    loo = arviz.loo(idata, pointwise=True)
    assert (loo.elpd if hasattr(loo, "elpd") else loo.elpd_loo) == pytest.approx(exact, abs=0.1)
    assert float(loo.pareto_k.max()) < 0.7


def test_summary_gives_mean_sd_and_interval_without_chain_diagnostics(idata, draws) -> None:
    table = summary(idata)
    assert list(table.columns) == ["mean", "sd", "lower", "upper"]
    assert list(table.index) == ["mean", *(f"weight[{factor}]" for factor in FACTORS)]
    weight = draws["posterior"]["weight"]
    np.testing.assert_allclose(table["mean"].iloc[1:], weight.mean(0), rtol=1e-12)
    np.testing.assert_allclose(table["sd"].iloc[1:], weight.std(0), rtol=1e-3)


def test_summary_interval_holds_the_level_asked_for(idata, draws) -> None:
    table = summary(idata, level=0.5).iloc[1:]
    weight = draws["posterior"]["weight"]
    inside = (weight >= table["lower"].to_numpy()) & (weight <= table["upper"].to_numpy())
    np.testing.assert_allclose(inside.mean(0), 0.5, atol=0.01)


def test_weights_that_are_all_equal_have_no_tail():
    """As of a user of whom nothing is known, in single precision; beside one whose weights are not."""
    rng = np.random.default_rng(0)
    equal = np.round(rng.normal(size=200), 0) * 5e-7
    found = pareto_k(np.stack([equal, rng.normal(size=200), np.zeros(200)], 1))
    assert found[0] == found[2] == 0
    assert 0 < found[1] < 0.7
    assert (pareto_k(np.zeros((200, 2))) == 0).all()
