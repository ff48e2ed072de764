"""The design of a simulated world: every knob, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Edge = tuple[str, str, float]
DEFAULT_EDGES: tuple[Edge, ...] = (
    ("platform_1", "preference_1", 0.8),
    ("platform_2", "preference_2", -0.8),
)
#: A policy that raises engagement while showing users less of what they look for.
SUBSTITUTION = {"substitution": 0.8, "direct": 0.9, "platform_engagement": 0.2, "engagement_strength": 0.5}


@dataclass(frozen=True)
class Design:
    """Every knob of a simulated world.

    Attributes
    ----------
    users, platform_factors, preference_factors, categories
        Numbers of users, of factors of each channel, and of categories.
    search_events, recommendation_events
        Smallest and largest number of events a user has on each surface (uniform between them).
    exposure_covariates, preference_covariates
        Number of covariates of each channel; 0 gives a channel without covariates.
    covariate_kind
        ``"gaussian"``, or ``"mixed"``: the first column of each block is skewed (exponential), the second
        is a standardised 0/1 indicator, the others are Gaussian.
    settings
        Number of distinct values that each block of covariates takes over the users, at random (0: every user has
        its own).  With fewer than 2K + 1 the covariates do not identify K factors.
    location, scale
        Strength of modulation: the standard deviation over users of each factor's location, and of the
        logarithm of its scale.  ``scale=0`` is the location-only world, identified only up to rotation.
    edges
        ``(source, target, weight)`` of the structural graph.  An edge inside a channel may be planted too:
        the model has none, and its decoder absorbs it.
    search_strength, exposure_strength
        Standard deviation over categories of the emission loadings, per unit of a factor.
    nonlinearity
        Share of the emission that is a smooth nonlinear function of the factors (0: softmax-linear).
    engagement_strength
        Standard deviation over categories of the loadings ``a[cat]`` of engagement on preference.
    platform_engagement
        Size of the coefficients ``alpha`` of engagement on the platform factors.
    direct
        Strength of the direct path: length of the coefficients ``delta`` of engagement on the exposure
        covariates (0: no direct path).
    substitution
        Strength with which ``platform_1``, made to follow ``exposure_1`` alone, moves exposure away from what users
        look for and engage with (below 0: towards it).  ``exposure_1`` then acts on engagement directly for the
        better (with `direct` above 0), and through ``platform_1`` for the worse: suppression.
    missing_surface
        Share of users who lack one surface (half of them each).
    periods
        Days of the window, in each of which a user's past counts anew (with any of the next four).
    learning
        How strongly exposure follows what the user engaged with, was shown and searched so far.
    personalisation
        How much the exposure covariates move that, in the same unit: the standard deviation of learning over users.
    influence
        How strongly search follows what the user was shown, and engaged with, so far.
    familiarity
        What one more (on a logarithmic scale) showing of a category adds to the log odds of engagement with it.
    suggestion
        Share of the searches that the platform suggests, by an emission of both channels.
    liked
        Strength with which what users look for moves whether they like what is shown: standard deviation over
        categories of the loadings of `liked`, a further outcome, on preference (0: there is no such outcome).
    """

    users: int = 4_000
    platform_factors: int = 2
    preference_factors: int = 3
    categories: int = 24
    search_events: tuple[int, int] = (16, 32)
    recommendation_events: tuple[int, int] = (32, 64)
    exposure_covariates: int = 5
    preference_covariates: int = 5
    covariate_kind: str = "gaussian"
    settings: int = 0
    location: float = 1.0
    scale: float = 0.5
    edges: tuple[Edge, ...] = DEFAULT_EDGES
    search_strength: float = 0.9
    exposure_strength: float = 0.9
    nonlinearity: float = 0.3
    engagement_strength: float = 0.7
    platform_engagement: float = 0.4
    direct: float = 0.2
    substitution: float = 0.0
    missing_surface: float = 0.0
    periods: int = 10
    learning: float = 0.0
    personalisation: float = 0.0
    influence: float = 0.0
    familiarity: float = 0.0
    suggestion: float = 0.0
    liked: float = 0.0

    def __post_init__(self) -> None:
        for f in fields(self):
            _check_knob(f.name, getattr(self, f.name), f.default)
        if self.covariate_kind not in ("gaussian", "mixed"):
            raise ValueError(f"covariate_kind is {self.covariate_kind!r}: choose gaussian or mixed")
        if not 0 <= self.suggestion < 1:
            raise ValueError(f"suggestion is {self.suggestion}: it must be at least 0 and below 1")
        if self.substitution and (self.categories < 2 or self.exposure_covariates < 1):
            raise ValueError("substitution needs two categories and an exposure covariate, or more")
        for name in ("users", "platform_factors", "preference_factors", "categories", "periods"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")

    @classmethod
    def with_knobs(cls, **knobs: Any) -> Design:
        """A design with some knobs turned; lists (as JSON gives them) become tuples.

        Raises
        ------
        ValueError
            If a knob is unknown; the message lists the knobs.

        Examples
        --------
        >>> Design.with_knobs(scale=0, edges=[["platform_1", "preference_2", 0.5]]).edges
        (('platform_1', 'preference_2', 0.5),)
        """
        known = {f.name for f in fields(cls)}
        if unknown := set(knobs) - known:
            raise ValueError(
                f"unknown knob {', '.join(sorted(unknown))}: choose of {', '.join(sorted(known))}"
            )
        return cls(**{name: _as_tuple(value) for name, value in knobs.items()})

    @property
    def has_loop(self) -> bool:
        """Whether events owe anything to the past."""
        return any((self.learning, self.personalisation, self.influence, self.familiarity))

    @property
    def factor_names(self) -> tuple[str, ...]:
        """Platform factors first, then preference factors: the order of every K axis in the package."""
        platform = tuple(f"platform_{k + 1}" for k in range(self.platform_factors))
        return platform + tuple(f"preference_{k + 1}" for k in range(self.preference_factors))

    @property
    def exposure_names(self) -> list[str]:
        return [f"exposure_{d + 1}" for d in range(self.exposure_covariates)]

    @property
    def preference_names(self) -> list[str]:
        return [f"taste_{d + 1}" for d in range(self.preference_covariates)]

    @property
    def category_names(self) -> list[str]:
        return [f"c{c:02d}" for c in range(self.categories)]


def shift_vector(design: Design, shift: Mapping[str, float]) -> Array:
    """A shift by name as a vector over the exposure covariates ``(D_P,)``.

    Raises
    ------
    ValueError
        If a name is not an exposure covariate.
    """
    for name in shift:
        if name not in design.exposure_names:
            raise ValueError(f"no exposure covariate {name}: choose of {', '.join(design.exposure_names)}")
    return np.array([shift.get(name, 0.0) for name in design.exposure_names])


def _check_knob(name: str, value: Any, default: Any) -> None:
    """Raise unless a knob's value is of the kind of its default."""
    if name == "edges":
        said, good = (
            "a list of [source, target, weight]",
            isinstance(value, tuple) and all(map(_is_edge, value)),
        )
    elif isinstance(default, tuple):
        pair = value if isinstance(value, tuple) and len(value) == 2 else (1, 0)
        good = all(isinstance(v, int | np.integer) for v in pair) and bool(0 <= pair[0] <= pair[1])
        said = "two whole numbers, the smaller first"
    elif isinstance(default, str):
        said, good = "a word", isinstance(value, str)
    elif isinstance(default, int):
        said, good = "a whole number", isinstance(value, int | np.integer) and bool(value >= 0)
    else:
        said, good = "a finite number", isinstance(value, int | float) and bool(abs(value) < np.inf)
    if not good:
        raise ValueError(f"{name} is {value!r}: it must be {said}")


def _is_edge(edge: Any) -> bool:
    source, target, weight = edge if isinstance(edge, tuple) and len(edge) == 3 else (None, None, None)
    return isinstance(source, str) and isinstance(target, str) and isinstance(weight, int | float)


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(v) for v in value) if isinstance(value, list) else value
