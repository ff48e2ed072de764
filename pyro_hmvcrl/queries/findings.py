"""What draws of effects come to: intervals, probabilities of suppression and substitution, and words."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pyro_hmvcrl.queries.averages import Array

SURE = 0.95  #: posterior probability from which a sign is spoken of as found


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


def proportion_mediated(contrasts: Mapping[str, Array]) -> Array | None:
    """NIE / TE, or None where it means nothing: unless there is a TE, and NDE and NIE have one sign, for sure."""
    nothing = suppression(contrasts) > 1 - SURE or not contrasts["TE"].all()
    return None if nothing else contrasts["NIE"] / contrasts["TE"]


def sentences(contrasts: Mapping[str, Mapping[str, Array]]) -> list[str]:
    """What the draws say of suppression and substitution, in plain words."""
    e, p_suppression = contrasts["engagement"], suppression(contrasts["engagement"])
    direct, indirect = ("raises" if e[name].mean() > 0 else "lowers" for name in ("NDE", "NIE"))
    if p_suppression >= SURE:
        said = [
            f"Suppression (probability {p_suppression:.2f}): directly the policy {direct} engagement, through the "
            f"factors it {indirect} it, and each hides a part of the other."
        ]
    else:
        said = [f"No suppression found (probability {p_suppression:.2f})."]
    p_substitution = substitution(contrasts)
    if p_substitution >= SURE:
        said.append(
            f"Substitution (probability {p_substitution:.2f}): engagement rises while what is shown moves away from "
            "what users look for. Engagement alone would call this policy a success."
        )
    else:
        said.append(f"No substitution found (probability {p_substitution:.2f}).")
    return said
