"""The answer in one sentence: what a change costs or brings, and which way what is shown moves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pyro_hmvcrl.data.names import level_words
from pyro_hmvcrl.queries.interventions import Shift

Estimate = Mapping[str, float]


def change_in_words(shifts: Sequence[Shift]) -> str:
    """What is done, as a sentence starts.

    Examples
    --------
    >>> change_in_words([Shift("autoplay", -0.2), Shift("novelty", 1.0, in_sd=True)])
    'Lowering autoplay by 0.2 and raising novelty by 1 standard deviation'
    """
    *first, last = map(_in_words, shifts)
    said = f"{', '.join(first)} and {last}" if first else last
    return said[0].upper() + said[1:]


def headline(change: str, outcomes: Mapping[str, Mapping[str, Any]], level: float) -> str:
    """The total effects on engagement and alignment, relative and absolute, alike in both directions.

    Parameters
    ----------
    change
        In words (:func:`change_in_words`).
    outcomes
        `engagement` and `alignment`, each with its `TE` and what that is `relative` to the level before.

    Examples
    --------
    >>> less = {"TE": {"mean": -0.058, "lower": -0.067, "upper": -0.049},
    ...         "relative": {"mean": -0.12, "lower": -0.14, "upper": -0.1}}
    >>> none = {"TE": {"mean": 0.0002, "lower": -0.001, "upper": 0.001}, "relative": None}
    >>> print(headline("Lowering autoplay by 0.2", {"engagement": less, "alignment": none}, 0.9))
    Lowering autoplay by 0.2 costs 5.8 points of engagement (12% less; 90%: 4.9 to 6.7), and does not surely move \
what is shown towards or away from what users look for (0.02 points; 90%: −0.10 to 0.10).
    """
    return f"{change} {_engagement(outcomes['engagement'], level)}, and {_alignment(outcomes['alignment'], level)}."


def _engagement(of: Mapping[str, Any], level: float) -> str:
    effect = of["TE"]
    if not _sure(effect):
        return f"does not surely change engagement ({_points(effect)} points; {level_words(level)}: {_ends(effect)})"
    verb, than_before = ("brings", "more") if effect["mean"] > 0 else ("costs", "less")
    share = f"{_percent(of['relative'])} {than_before}; " if of["relative"] else ""
    return f"{verb} {_size(effect)} points of engagement ({share}{level_words(level)}: {_sizes(effect)})"


def _alignment(of: Mapping[str, Any], level: float) -> str:
    effect, relative = of["TE"], of["relative"]
    if not _sure(effect):
        said = f"({_points(effect)} points; {level_words(level)}: {_ends(effect)})"
        return f"does not surely move what is shown towards or away from what users look for {said}"
    verb, way = ("brings", "nearer to") if effect["mean"] > 0 else ("takes", "farther from")
    by = f"{_percent(relative)} " if relative else ""
    sizes = f"{_size(effect)} points of alignment; {level_words(level)}: {_sizes(effect)}"
    return f"{verb} what is shown {by}{way} what users look for ({sizes})"


def _in_words(shift: Shift) -> str:
    ends = ((shift.low, "no lower than"), (shift.high, "no higher than"))
    within = ", ".join(f"{words} {end:g}" for end, words in ends if end is not None)
    within = f" ({within})" if within else ""
    if shift.fixed:
        return f"setting {shift.column} to {shift.amount:g}{within}"
    if shift.times:
        return f"multiplying {shift.column} by {shift.amount:g}{within}"
    unit = f" standard deviation{'' if abs(shift.amount) == 1 else 's'}" if shift.in_sd else ""
    verb = "lowering" if shift.amount < 0 else "raising"
    return f"{verb} {shift.column} by {abs(shift.amount):g}{unit}{within}"


def _sure(effect: Estimate) -> bool:
    """Whether its interval leaves zero out."""
    return effect["lower"] > 0 or effect["upper"] < 0


def _digits(effect: Estimate) -> int:
    return 1 if abs(effect["mean"]) >= 0.01 else 2


def _size(effect: Estimate) -> str:
    return f"{100 * abs(effect['mean']):.{_digits(effect)}f}"


def _sizes(effect: Estimate) -> str:
    """Ends of an interval that lies to one side of zero, the nearer one first."""
    near, far = sorted((abs(effect["lower"]), abs(effect["upper"])))
    return f"{100 * near:.{_digits(effect)}f} to {100 * far:.{_digits(effect)}f}"


def _points(effect: Estimate) -> str:
    return f"{100 * effect['mean']:z.{_digits(effect)}f}".replace("-", "−")


def _ends(effect: Estimate) -> str:
    ends = (f"{100 * effect[end]:z.{_digits(effect)}f}" for end in ("lower", "upper"))
    return " to ".join(ends).replace("-", "−")


def _percent(relative: Estimate) -> str:
    size = abs(relative["mean"])
    return f"{size:.0%}" if size >= 0.095 else f"{size:.1%}"
