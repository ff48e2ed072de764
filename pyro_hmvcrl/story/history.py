"""History: what the events of a period owe to the user's own past, all of it observed.

A platform that learns shows more of what a user engaged with; what a user was shown turns into searches, and into habit
or satiation.  A user's past enters through features of what was searched, shown and engaged with **so far**, category
by category::

    rate       (engaged - usual shown) / (shown + 2)   engagement above the usual, held back where little was shown
    engaged    log(1 + engaged)                        in log odds, events so far are a share so far
    shown      log(1 + shown)
    searched   log(1 + searched)

All are 0 for a category that the user has not met.  Each term of the story looks at some of them (`LOOKS_AT`), with a
weight for each that has a name, a prior and a posterior.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

FEATURES = ("rate", "engaged", "shown", "searched")
#: Which features a term of the story looks at; they stand side by side in `FEATURES`.
LOOKS_AT = {
    "learning": ("rate", "engaged", "shown", "searched"),
    "influence": ("engaged", "shown"),
    "familiarity": ("shown",),
}
HELD_BACK = 2.0  #: showings at which an engagement rate of a user is believed half


class Past(NamedTuple):
    """What was searched, shown and engaged with before a period, events ``(..., C)`` by category."""

    searched: Tensor
    shown: Tensor
    engaged: Tensor

    @classmethod
    def none(cls, like: Tensor) -> Past:
        """Before the first period, for logits ``(..., C)``."""
        nothing = torch.zeros_like(like)
        return cls(nothing, nothing, nothing)

    def and_then(self, searched: Tensor, shown: Tensor, engaged: Tensor) -> Past:
        """The past of the next period."""
        return Past(self.searched + searched, self.shown + shown, self.engaged + engaged)

    def features(self, usual: Tensor) -> Tensor:
        """Features ``(..., C, F)``; `usual` is the rate of engagement of all users together."""
        rate = (self.engaged - usual * self.shown) / (self.shown + HELD_BACK)
        logs = (torch.log1p(counts) for counts in (self.engaged, self.shown, self.searched))
        return torch.stack([rate, *logs], -1)


def pasts(searched: Tensor, shown: Tensor, engaged: Tensor) -> Past:
    """The past of every period, from events ``(..., T, C)`` by period: none before the first."""
    return Past(*(counts.cumsum(-2) - counts for counts in (searched, shown, engaged)))


def term(name: str, features: Tensor, weights: Tensor) -> Tensor:
    """What a term of the story adds to the logits ``(..., C)``: its features, of ``(..., C, F)``, times their weights.

    Weights ``(..., F_term)`` are one for all users, or each user's own.
    """
    first, last = (FEATURES.index(LOOKS_AT[name][end]) for end in (0, -1))
    return (features[..., first : last + 1] @ weights.unsqueeze(-1)).squeeze(-1)
