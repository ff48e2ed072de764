"""What the package is compared with, each method as a way from a dataset to factors and effects.

Model variants (``variants.py``) answer by their own model.  Methods that have factors and no model of effects answer
by regression: TE is the slope of a user's observed outcome on the policy given the other covariates, NDE the slope
with the factors beside them, NIE the difference (product of coefficients: MacKinnon, Krull & Lockwood 2000).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from implicit.als import AlternatingLeastSquares
from scipy.sparse import csr_matrix
from sklearn.cross_decomposition import CCA
from sklearn.decomposition import PCA, FastICA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import RidgeCV
from sklearn.preprocessing import StandardScaler

from pyro_hmvcrl.data.dataset import Dataset
from pyro_hmvcrl.guide.experts import factor_posterior
from pyro_hmvcrl.inference.laplace import ParameterPosterior, fitted_values
from pyro_hmvcrl.inference.restarts import Build
from pyro_hmvcrl.inference.settings import Settings
from pyro_hmvcrl.inference.svi import Screening, screen, tensors_of
from pyro_hmvcrl.kuaisar.published import PSEUDO_EVENTS
from pyro_hmvcrl.queries.averages import Users, average_effects
from pyro_hmvcrl.report.style import ESTIMANDS
from pyro_hmvcrl.synthetic.design import Array

from rivals import IDCF
from variants import VARIANTS

Effects = dict[str, float]  # by "outcome estimand"


@dataclass(frozen=True)
class Found:
    """What a method makes of a dataset.

    Attributes
    ----------
    platform, preference
        The columns of the factors that may stand for a channel: all of them, for a method without channels.
    encode
        Factors ``(N, M)`` of users from their logs.
    effects
        Of one more of the first exposure covariate; empty for a method that cannot say.
    """

    platform: slice
    preference: slice
    encode: Callable[[Dataset], Array]
    effects: Effects


Method = Callable[[Dataset, Settings], Found]


# --- The model and its variants ------------------------------------------------------------------------------


def by_the_model(build: Build, channels: bool, dataset: Dataset, settings: Settings) -> Found:
    """The first stage of the fit, with the guide and the model that `build` makes."""
    return _found(screen(dataset, settings, build=build), dataset, channels)


def _found(s: Screening, dataset: Dataset, channels: bool = True) -> Found:
    n = s.guide.model.n_platform
    blocks = (slice(0, n), slice(n, None)) if channels else (slice(None), slice(None))
    return Found(*blocks, partial(_expand, s), _model_effects(s, dataset))


def _expand(s: Screening, dataset: Dataset) -> Array:
    logs = tensors_of(dataset, s.standardisation)
    return factor_posterior(*s.guide.expansion(dataset.n_users).posterior(logs))[0]


def _model_effects(s: Screening, dataset: Dataset) -> Effects:
    """Interventional effects at the fitted values."""
    logs, values = tensors_of(dataset, s.standardisation), fitted_values(s.guide)
    shifted = logs.exposure_covariates.clone()
    shifted[:, 0] += 1 / s.standardisation.sd[dataset.exposure_covariates[0]]
    point = ParameterPosterior(values, {}, {name: value[None] for name, value in values.items()}, {}, {})
    found = average_effects(s.guide, point, Users(logs), {"exposure_covariates": shifted}).contrasts
    return {f"{o} {e}": float(found[o][e].mean()) for o in found for e in ESTIMANDS}


def one_restart(dataset: Dataset, settings: Settings) -> Found:
    """Ours without a choice among restarts."""
    return by_the_model(VARIANTS["ours"], True, dataset, replace(settings, restarts=1))


def without_covariates(dataset: Dataset, settings: Settings) -> Found:
    """A variational autoencoder: the same model with standard normal factors."""
    s = screen(replace(dataset, exposure_covariates=[], preference_covariates=[]), settings)
    n = s.guide.model.n_platform
    return _with_regression(slice(0, n), slice(n, None), partial(_expand, s), dataset)


def one_surface(surface: str, dataset: Dataset, settings: Settings) -> Found:
    """The same model, that sees the events of one surface alone."""
    s = screen(_only(surface, dataset), settings)
    found = _found(s, dataset)
    effects = {} if surface == "search" else found.effects  # search has no engagement
    return replace(found, encode=lambda d: _expand(s, _only(surface, d)), effects=effects)


def _only(surface: str, dataset: Dataset) -> Dataset:
    others = {"search": ("exposure", "engagement"), "recommendation": ("search",)}[surface]
    return dataset.with_counts(**{name: np.zeros_like(dataset.search) for name in others})


# --- Factors without the model -------------------------------------------------------------------------------


def matrix_factorisation(dataset: Dataset, settings: Settings) -> Found:
    """Implicit-feedback matrix factorisation on all engagement: searches and engaged exposures (Hu et al. 2008)."""
    k = settings.platform_factors + settings.preference_factors
    als = AlternatingLeastSquares(k, num_threads=1, random_state=settings.seed)
    als.fit(_all_engagement(dataset), show_progress=False)

    def encode(d: Dataset) -> Array:
        return np.asarray(als.recalculate_user(np.arange(d.n_users), _all_engagement(d)), float)

    return _with_regression(slice(None), slice(None), encode, dataset)


def _all_engagement(dataset: Dataset) -> csr_matrix:
    return csr_matrix(dataset.search + dataset.engagement)


def by_surface(make: Callable[[int], PCA | FastICA], dataset: Dataset, settings: Settings) -> Found:
    """Preference from the shares of search, platform from those of exposure: the blocks are given, not found."""
    n = settings.platform_factors
    scores = (
        _fitted(make(n), dataset, "exposure"),
        _fitted(make(settings.preference_factors), dataset, "search"),
    )

    def encode(d: Dataset) -> Array:
        return np.hstack([score(d) for score in scores])

    return _with_regression(slice(0, n), slice(n, None), encode, dataset)


def _fitted(axes: PCA | FastICA, dataset: Dataset, surface: str) -> Callable[[Dataset], Array]:
    shares = log_shares(dataset, surface)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # Gaussian scores have no axes to find
        axes.fit(shares(dataset))
    return lambda d: np.asarray(axes.transform(shares(d)))


def two_views(dataset: Dataset, settings: Settings) -> Found:
    """Canonical correlation of the shares of search with those of exposure: what the surfaces have in common."""
    k = max(settings.platform_factors, settings.preference_factors)
    views = [log_shares(dataset, surface) for surface in ("exposure", "search")]
    scale = [StandardScaler().fit(view(dataset)) for view in views]

    def seen(d: Dataset) -> list[Array]:
        return [s.transform(view(d)) for s, view in zip(scale, views, strict=True)]

    cca = CCA(k, scale=False, max_iter=2_000).fit(*seen(dataset))
    return _with_regression(
        slice(0, k), slice(k, None), lambda d: np.hstack(cca.transform(*seen(d))), dataset
    )


def deconfounded(dataset: Dataset, settings: Settings) -> Found:
    """IDCF (``rivals.py``): its confounder stands for the platform, and tastes that it leaves for preference."""
    n = settings.platform_factors
    found = IDCF(dataset, n, settings.preference_factors, settings.seed)
    return _with_regression(slice(0, n), slice(n, None), lambda d: np.hstack(found.encode(d)), dataset)


def by_instruments(dataset: Dataset, settings: Settings) -> Found:
    """Searches as instruments of what users engage with on recommendations: IV4Rec (Si et al. 2022).

    What a regression on searches explains of it is the users' own, and the rest is the platform's.  Shares of
    categories stand where the paper has embeddings of items.
    """
    engaged, searched = (log_shares(dataset, surface) for surface in ("engagement", "search"))
    first = RidgeCV(np.logspace(-2, 4, 13)).fit(searched(dataset), engaged(dataset))

    def parts(d: Dataset) -> tuple[Array, Array]:
        explained = first.predict(searched(d))
        return engaged(d) - explained, explained

    n = settings.platform_factors
    axes = [
        PCA(k).fit(part) for k, part in zip((n, settings.preference_factors), parts(dataset), strict=True)
    ]
    return _with_regression(
        slice(0, n),
        slice(n, None),
        lambda d: np.hstack([a.transform(part) for a, part in zip(axes, parts(d), strict=True)]),
        dataset,
    )


def log_shares(dataset: Dataset, surface: str) -> Callable[[Dataset], Array]:
    """Centred log shares of categories ``(N, C)``, smoothed by the average user of `dataset`."""
    total = getattr(dataset, surface).sum(0) + 1.0
    usual = PSEUDO_EVENTS * total / total.sum()

    def shares(d: Dataset) -> Array:
        log_share = np.log(getattr(d, surface) + usual)
        return np.asarray(log_share - log_share.mean(1, keepdims=True))

    return shares


def _with_regression(
    platform: slice, preference: slice, encode: Callable[[Dataset], Array], dataset: Dataset
) -> Found:
    return Found(platform, preference, encode, regression_effects(dataset, encode(dataset)))


def regression_effects(dataset: Dataset, factors: Array) -> Effects:
    """Effects from regressions of users' observed outcomes on covariates, without and with factors."""
    shown, searched = (np.maximum(x.sum(1), 1) for x in (dataset.exposure, dataset.search))
    outcomes = {
        "engagement": dataset.engagement.sum(1) / shown,
        "alignment": (dataset.exposure * dataset.search).sum(1) / (shown * searched),
    }
    covariates = np.hstack([dataset.covariates(c) for c in ("platform", "preference")])
    found = {}
    for name, y in outcomes.items():
        total, direct = _slope(y, covariates), _slope(y, np.hstack([covariates, factors]))
        found |= {f"{name} TE": total, f"{name} NDE": direct, f"{name} NIE": total - direct}
    return found


def _slope(y: Array, x: Array) -> float:
    """Of `y` on the first column of `x`, by least squares."""
    return float(np.linalg.lstsq(np.column_stack([x, np.ones(len(x))]), y, rcond=None)[0][0])


METHODS: dict[str, Method] = {
    **{name: partial(by_the_model, build, name != "iVAE") for name, build in VARIANTS.items()},
    "one restart": one_restart,
    "no covariates (VAE)": without_covariates,
    "recommendation only": partial(one_surface, "recommendation"),
    "search only": partial(one_surface, "search"),
    "matrix factorisation": matrix_factorisation,
    "PCA": partial(by_surface, PCA),
    "FastICA": partial(by_surface, partial(FastICA, whiten="unit-variance", max_iter=1_000, random_state=0)),
    "CCA": two_views,
    "iDCF": deconfounded,
    "IV4Rec": by_instruments,
}
