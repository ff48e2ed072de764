"""The one module that knows which ArviZ is installed: 0.23 (Python 3.11) or 1.x (3.12 and newer).

What is the same on both lines (``loo``, ``compare``, ``extract``, ``plot_forest``, ``from_netcdf``) is called on
ArviZ itself.  Draws from a fitted guide are independent, so there is one chain, and neither effective sample
size nor R-hat means anything: look at Pareto k (``arviz.loo(..., pointwise=True).pareto_k``) instead.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from pyro_hmvcrl.inference.writing import whole_file

NESTED_GROUPS = int(version("arviz").split(".")[0]) >= 1  # each line misreads the other's form of from_dict
Arrays = Mapping[str, ArrayLike]
ROUNDING = 1e-4  #: by which log weights that are equal differ in single precision


def the_arviz() -> Any:
    """ArviZ, where it is needed: it is slow to import, and 0.23 writes into the home folder."""
    with warnings.catch_warnings():
        # 0.23 announces 1.x on import, which Python 3.11 cannot install.
        warnings.filterwarnings("ignore", message=r"\s*ArviZ is undergoing", category=FutureWarning)
        import arviz
    return arviz


def inference_data(
    posterior: Arrays,
    observed_data: Arrays | None = None,
    log_likelihood: Arrays | None = None,
    posterior_predictive: Arrays | None = None,
    coords: Mapping[str, Iterable[Any]] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
) -> Any:
    """Gather draws for ArviZ, as one chain.

    Parameters
    ----------
    posterior, log_likelihood, posterior_predictive
        Site name -> array of shape (draws, ...).
    observed_data
        Site name -> array as observed, without draws.
    coords
        Dimension name -> its labels.
    dims
        Site name -> names of its dimensions after the draws.

    Returns
    -------
    arviz.InferenceData or xarray.DataTree
        The former on ArviZ 0.23, the latter on 1.x.

    Raises
    ------
    ValueError
        If the sites of a group differ in their number of draws.
    """
    drawn = {
        "posterior": posterior,
        "posterior_predictive": posterior_predictive,
        "log_likelihood": log_likelihood,
    }
    groups = {group: _one_chain(group, arrays) for group, arrays in drawn.items() if arrays is not None}
    if observed_data is not None:
        groups["observed_data"] = {name: np.asarray(array) for name, array in observed_data.items()}
    labels: dict[str, Any] = {
        # Plain arrays: netCDF has no place for pandas' string or categorical types.
        "coords": {name: np.asarray(list(values)) for name, values in (coords or {}).items()},
        "dims": {name: list(names) for name, names in (dims or {}).items()},
    }
    from_dict = the_arviz().from_dict
    return from_dict(groups, **labels) if NESTED_GROUPS else from_dict(**groups, **labels)


def _one_chain(group: str, arrays: Arrays) -> dict[str, np.ndarray]:
    chain = {name: np.asarray(array)[np.newaxis] for name, array in arrays.items()}
    draws = {name: array.shape[1:2] for name, array in chain.items()}
    if len(set(draws.values())) > 1:
        raise ValueError(f"{group}: every site needs the same number of draws, got {draws}")
    return chain


def pareto_k(log_weights: ArrayLike) -> np.ndarray:
    """Pareto k-hat ``(N,)`` of log importance weights ``(draws, N)``.

    Above 0.7 they are not to be trusted; it is 0 where all are equal.

    Vehtari et al. (2024).  Both lines of ArviZ estimate it in ``loo``, whose weights are one over the likelihood.
    """
    weights = np.asarray(log_weights)
    differ = np.ptp(weights, 0) > ROUNDING  # of those that do not, ArviZ finds no tail, and says inf
    k = np.zeros(len(differ))
    if not differ.any():
        return k
    draws = {"number": np.arange(len(weights))}
    data = inference_data(draws, log_likelihood={"users": -weights[:, differ]})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Estimated shape parameter")  # large ones are reported
        warnings.filterwarnings("ignore", message="The point-wise LOO is the same")  # of one user it is
        k[differ] = np.asarray(the_arviz().loo(data, pointwise=True).pareto_k)
    return k


def save_netcdf(idata: Any, path: str | Path) -> None:
    """Write to ``path``, whole or not at all; a file already there is replaced."""
    with whole_file(Path(path)) as file:
        idata.to_netcdf(file, engine="h5netcdf")


def summary(idata: Any, level: float = 0.9) -> pd.DataFrame:
    """Posterior mean, standard deviation and highest-density interval of every coordinate of every site.

    Parameters
    ----------
    idata
        What :func:`inference_data` returned, or what was read from netCDF.
    level
        Posterior probability inside the interval.

    Returns
    -------
    pandas.DataFrame
        One row per coordinate, such as ``weight[platform_1]``; columns mean, sd, lower, upper, unrounded.
    """
    interval: dict[str, Any] = {"ci_prob": level, "ci_kind": "hdi"} if NESTED_GROUPS else {"hdi_prob": level}
    table = the_arviz().summary(idata, kind="stats", round_to="none", **interval)
    return pd.DataFrame(table.to_numpy(float), table.index, ["mean", "sd", "lower", "upper"])
