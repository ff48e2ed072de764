"""Claims about the answer in words: alike in both directions, and nothing said that is not sure."""

from __future__ import annotations

import numpy as np
import pytest

from pyro_hmvcrl.queries.findings import relative, sentences, substitution, substitution_undone
from pyro_hmvcrl.queries.headline import change_in_words, headline
from pyro_hmvcrl.queries.interventions import add, parse_shift


def effect(mean: float, half: float = 0.01, before: float = 0.5) -> dict:
    ends = {"mean": mean, "lower": mean - half, "upper": mean + half}
    return {"TE": ends, "relative": {name: value / before for name, value in ends.items()}}


def said(engagement: dict, alignment: dict) -> str:
    return headline("It", {"engagement": engagement, "alignment": alignment}, 0.9)


def test_a_gain_and_a_loss_are_said_alike():
    gain, loss = (said(effect(0.06 * sign), effect(-0.03 * sign)) for sign in (1, -1))
    assert gain == (
        "It brings 6.0 points of engagement (12% more; 90%: 5.0 to 7.0), and takes what is shown 6.0% farther from "
        "what users look for (3.0 points of alignment; 90%: 2.0 to 4.0)."
    )
    mirrored = {"brings 6": "costs 6", "more": "less", "takes": "brings", "farther from": "nearer to"}
    for word, other in mirrored.items():
        gain = gain.replace(word, other, 1)
    assert gain == loss


def test_what_is_not_sure_is_not_said_to_be():
    unsure = said(effect(0.002), effect(-0.002) | {"relative": None})
    assert unsure.count("does not surely") == 2
    assert "0.20 points; 90%: −0.80 to 1.20" in unsure
    assert "−0.20 points" in unsure
    assert said(effect(0.0, 0.0), effect(0.03) | {"relative": None}).endswith(
        "brings what is shown nearer to what users look for (3.0 points of alignment; 90%: 2.0 to 4.0)."
    )


@pytest.mark.parametrize(
    ("shifts", "words"),
    [
        (["fee=-0.5"], "Lowering fee by 0.5"),
        (["fee=+1sd"], "Raising fee by 1 standard deviation"),
        (["fee=*0.8 max 2"], "Multiplying fee by 0.8 (no higher than 2)"),
        (["fee:=3", "age=+2sd min 0"], "Setting fee to 3 and raising age by 2 standard deviations (no lower than 0)"),
        (["a=+1", "b=+1", "c=+1"], "Raising a by 1, raising b by 1 and raising c by 1"),
    ],
)  # fmt: skip
def test_a_change_is_told_in_words(shifts, words):
    assert change_in_words([parse_shift(shift) for shift in shifts]) == words


def test_substitution_is_said_in_both_directions():
    up, down = np.full(20, 0.1), np.full(20, -0.1)
    contrasts = {"engagement": {"TE": up, "NDE": up, "NIE": down}, "alignment": {"TE": down}}
    reverse = {o: {name: -draws for name, draws in of.items()} for o, of in contrasts.items()}
    assert (substitution(contrasts), substitution_undone(contrasts)) == (1, 0)
    assert (substitution(reverse), substitution_undone(reverse)) == (0, 1)
    assert "Engagement alone would call this policy a success" in sentences(contrasts)[1]
    assert "Engagement alone would call this policy a failure" in sentences(reverse)[1]
    both_up = contrasts | {"alignment": {"TE": up}}
    assert sentences(both_up)[1] == "No substitution found (probability 0.00), nor its reverse (0.00)."


def test_an_effect_is_relative_to_a_level_above_zero_only():
    assert relative(np.array([0.1, 0.2]), np.array([0.5, 0.5])).tolist() == [0.2, 0.4]
    assert relative(np.array([0.1, 0.2]), np.array([0.5, -0.5])) is None


def test_a_shift_is_in_its_own_sign():
    assert change_in_words([add("fee", -1)]) == "Lowering fee by 1"
