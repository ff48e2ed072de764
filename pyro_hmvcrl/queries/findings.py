"""What draws of effects come to: intervals, probabilities of suppression and substitution, and words."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pyro_hmvcrl.queries.averages import Array

SURE = 0.95  #: posterior probability from which a sign is spoken of as found


def check_level(level: float) -> None:
    """Refuse what is no level of an interval.

    Raises
    ------
    ValueError
        If it does not lie between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level}: it must lie between 0 and 1")


def interval(draws: Array, level: float) -> dict[str, float]:
    """Mean and central interval of draws ``(D,)``."""
    lower, upper = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return {"mean": float(draws.mean()), "lower": float(lower), "upper": float(upper)}


def suppression(contrasts: Mapping[str, Array]) -> float:
    """Posterior probability that the direct and the indirect effect have opposite signs.

    Examples
    --------
    >>> suppression({"NDE": np.array([0.2, 0.3]), "NIE": np.array([-0.1, 0.1])})
    0.5
    """
    return float((contrasts["NDE"] * contrasts["NIE"] < 0).mean())


def substitution(contrasts: Mapping[str, Mapping[str, Array]]) -> float:
    """Posterior probability that engagement rises while alignment falls."""
    return float(((contrasts["engagement"]["TE"] > 0) & (contrasts["alignment"]["TE"] < 0)).mean())


def substitution_undone(contrasts: Mapping[str, Mapping[str, Array]]) -> float:
    """Posterior probability of the reverse: engagement falls while alignment rises."""
    return substitution({o: {"TE": -contrasts[o]["TE"]} for o in ("engagement", "alignment")})


def relative(effect: Array, level_before: Array) -> Array | None:
    """Draws of an effect as a share of the level before; None where that is not above zero for sure."""
    return effect / level_before if (level_before > 0).all() else None


def proportion_mediated(contrasts: Mapping[str, Array]) -> Array | None:
    """NIE / TE, or None where it means nothing: unless there is a TE, and NDE and NIE have one sign, for sure."""
    nothing = suppression(contrasts) > 1 - SURE or not contrasts["TE"].all()
    return None if nothing else contrasts["NIE"] / contrasts["TE"]


def sentences(contrasts: Mapping[str, Mapping[str, Array]]) -> list[str]:
    """What the draws say of suppression, and of substitution in both directions, in plain words."""
    return [_suppression_sentence(contrasts["engagement"]), _substitution_sentence(contrasts)]


def _suppression_sentence(of_engagement: Mapping[str, Array]) -> str:
    p = suppression(of_engagement)
    if p < SURE:
        return f"No suppression found (probability {p:.2f})."
    direct, indirect = ("raises" if of_engagement[name].mean() > 0 else "lowers" for name in ("NDE", "NIE"))
    return (
        f"Suppression (probability {p:.2f}): directly the policy {direct} engagement, through the "
        f"factors it {indirect} it, and each hides a part of the other."
    )


def _substitution_sentence(contrasts: Mapping[str, Mapping[str, Array]]) -> str:
    done, undone = substitution(contrasts), substitution_undone(contrasts)
    if done >= SURE:
        return (
            f"Substitution (probability {done:.2f}): engagement rises while what is shown moves away from "
            "what users look for. Engagement alone would call this policy a success."
        )
    if undone >= SURE:
        return (
            f"Substitution undone (probability {undone:.2f}): engagement falls while what is shown moves towards "
            "what users look for. Engagement alone would call this policy a failure."
        )
    return f"No substitution found (probability {done:.2f}), nor its reverse ({undone:.2f})."
