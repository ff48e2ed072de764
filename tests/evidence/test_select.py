"""Claims about the choice of numbers of factors, on models whose bounds are made up."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pyro_hmvcrl.data.dataset import CHANNELS
from pyro_hmvcrl.evidence.select import (
    LEAST,
    MOST,
    Candidate,
    gain,
    is_better,
    reasons,
    recommended,
    table,
    walk,
)

USERS = np.random.default_rng(0).normal(-180, 50, 400)  # who differ far more than models do


def candidate(level: float = 0.0, noise: float = 0.0, seed: int = 0, **found) -> Candidate:
    bounds = USERS + level + noise * np.random.default_rng(seed).standard_normal(len(USERS))
    known = {"search_rest": "good", "exposure_rest": "good", "collapsed": 0}
    return Candidate(bounds, identified=dict.fromkeys(CHANNELS, True), **(known | found))


def world(platform: int, preference: int):
    """Models of a world with so many factors: one too few costs much, one too many a little."""

    def candidate_of(numbers):
        few = [max(true - n, 0) for true, n in zip((platform, preference), numbers, strict=True)]
        many = sum(numbers) + sum(few) - platform - preference
        seed = 100 * numbers[0] + numbers[1]
        return candidate(-5.0 * sum(few) - 0.03 * many, noise=0.5, seed=seed)

    return candidate_of


@pytest.mark.parametrize("truth", [(1, 1), (2, 2), (2, 3), (3, 1), (4, 4), (5, 2)])
def test_the_way_finds_both_numbers_in_few_fits(truth):
    found = walk((2, 2), CHANNELS, world(*truth))
    assert recommended(found) == truth
    assert len(found) <= 10
    assert {(truth[0] + 1, truth[1]), (truth[0], truth[1] + 1)} <= {
        *found
    }  # the neighbours that speak for it


@pytest.mark.parametrize("channel", CHANNELS)
def test_a_number_that_is_given_stays(channel):
    found = walk((2, 2), [channel], world(3, 4))
    given = 1 - CHANNELS.index(channel)
    assert {numbers[given] for numbers in found} == {2}
    assert recommended(found)[1 - given] == (3, 4)[1 - given]


def test_the_way_ends_where_more_always_help():
    found = walk((MOST + 5, 2), ["preference"], lambda numbers: candidate(sum(numbers)))
    assert recommended(found) == (MOST + 5, MOST)  # whatever the other was given as
    assert any(f"no more than {MOST}" in sentence for sentence in reasons(found, ["preference"]))


def test_users_are_compared_with_themselves():
    one, other = candidate(1.0, noise=0.5, seed=1), candidate(noise=0.5, seed=2)
    mean, error = gain(one, other)
    assert mean == pytest.approx((one.bounds - other.bounds).mean())
    assert error < 0.05 < USERS.std() / len(USERS) ** 0.5
    assert is_better(one, other)


def test_no_gain_within_a_standard_error_or_too_small_to_matter_counts():
    assert not is_better(candidate(0.3, noise=10, seed=1), candidate())
    assert not is_better(candidate(0.8 * LEAST), candidate())  # however sure
    assert is_better(candidate(1.2 * LEAST), candidate())


def test_the_smallest_model_within_a_standard_error_of_the_best_is_recommended():
    models = {
        (2, 2): candidate(-1.0),
        (2, 3): candidate(0.0),
        (3, 3): candidate(0.8 * LEAST),
        (3, 2): candidate(-0.01),
    }
    assert recommended(models) == (2, 3)  # of two as small the better
    assert recommended(models | {(1, 1): candidate(0.02)}) == (1, 1)


def test_table_and_sentences_say_the_same():
    models = {(2, 2): candidate(-1.5), (2, 3): candidate(search_rest="no"), (2, 4): candidate(-0.25)}
    rows = table(models)
    assert rows["recommended"].tolist() == [False, True, False]
    assert rows["gain"].round(6).tolist() == [-1.5, 0.0, -0.25]
    assert rows["bound"].iloc[1] == pytest.approx(USERS.mean())
    said = reasons(models, CHANNELS)
    assert said[0].startswith("2 platform factors and 3 preference factors: the smallest of 3 models")
    assert "2 preference factors instead would lose 1.50 nats a user (standard error 0.00)" in said
    assert "4 preference factors instead would lose 0.25 nats a user (standard error 0.00)" in said
    assert any("searches in more ways than the preference factors" in sentence for sentence in said)


def test_what_is_known_of_a_model_can_be_kept():
    one = candidate(exposure_rest="care", collapsed=1)
    again = Candidate.from_dict(json.loads(json.dumps(one.to_dict())))
    assert again.bounds.tolist() == one.bounds.tolist()
    assert again.to_dict() == one.to_dict()
