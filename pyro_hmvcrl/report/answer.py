"""Answers to look at: a table, a figure, a line in a terminal, a few lines in a notebook."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from pyro_hmvcrl.report.answer_figures import effects_forest, policies_plane
from pyro_hmvcrl.report.style import ESTIMANDS, INTERVAL, PROBABILITIES, label, levels_in_words
from pyro_hmvcrl.report.verdicts import believe, effect_text, regression_sentences


class Answer:
    """What one policy or several come to, by name: see :func:`~pyro_hmvcrl.queries.answer.effects` for what is in it.

    Parameters
    ----------
    answers
        What :func:`~pyro_hmvcrl.queries.answer.effects` gave, by the policy's name.
    report
        The run's ``report.json``, without which it is not said whether to believe them.
    """

    def __init__(self, answers: Mapping[str, dict[str, Any]], report: dict[str, Any] | None = None) -> None:
        self.answers, self.report = dict(answers), report

    def __getitem__(self, name: str) -> Answer:
        """The answer of one of the policies."""
        return Answer({name: self.answers[name]}, self.report)

    @property
    def policies(self) -> list[str]:
        """Their names."""
        return list(self.answers)

    @property
    def headlines(self) -> list[str]:
        """The finding on each policy, and whether to believe it."""
        return [
            f"{self._of(name)}{of['headline']} {believe(of, self.report)[1] if self.report else ''}".strip()
            for name, of in self.answers.items()
        ]

    @property
    def sentences(self) -> list[str]:
        """What else is found, in words."""
        return [
            f"{self._of(name)}{sentence}"
            for name, of in self.answers.items()
            for sentence in [
                *regression_sentences(of),
                *of["sentences"],
                f"Overlap: {of['overlap']['verdict']}.",
            ]
        ]

    def _of(self, name: str) -> str:
        """The policy that is spoken of, if there are several."""
        return f"{name}: " if len(self.answers) > 1 else ""

    @property
    def _title(self) -> str:
        levels = levels_in_words(self.answers)
        return f"Total effects with {levels} intervals, {' and '.join(PROBABILITIES)} in percentage points"

    def to_dict(self) -> dict[str, Any]:
        """What is written as JSON; of several policies by their names."""
        return self.answers if len(self.answers) > 1 else next(iter(self.answers.values()))

    def to_frame(self) -> pd.DataFrame:
        """Effects and levels with their intervals: `mean`, `lower` and `upper`, in the outcome's own unit.

        A row for each policy (if there are several), outcome and effect: the estimands, each factor and path, and the
        outcome before and after.
        """
        rows = {
            (policy, outcome, effect): [estimate[part] for part in INTERVAL]
            for policy, answer in self.answers.items()
            for outcome, of in answer["outcomes"].items()
            for effect, estimate in (
                {e: of[e] for e in ESTIMANDS} | of["factors"] | of["paths"] | of["levels"]
            ).items()
        }
        return self._frame(rows, ["outcome", "effect"])

    @property
    def table(self) -> pd.DataFrame:
        """The policies side by side, a row each: total effects with intervals, and probabilities of substitution."""
        rows = {
            name: {(o, part): of["outcomes"][o]["TE"][part] for o in of["outcomes"] for part in INTERVAL}
            | {("probability", p): of[p] for p in ("substitution", "substitution_undone")}
            for name, of in self.answers.items()
        }
        return pd.DataFrame.from_dict(rows, "index")

    @property
    def categories(self) -> pd.DataFrame:
        """Shares of each category in what is searched and what is shown: before, after, and the change, with intervals.

        A row for each policy (if there are several), category, surface and part.
        """
        rows = {
            (policy, category, surface, part): [estimate[end] for end in INTERVAL]
            for policy, answer in self.answers.items()
            for category, by_surface in answer["categories"].items()
            for surface, shares in by_surface.items()
            for part, estimate in shares.items()
        }
        return self._frame(rows, ["category", "surface", "part"])

    @property
    def segments(self) -> pd.DataFrame:
        """Effects on the users of each segment, if they were asked (``by=``), with intervals of all together.

        A row for each policy (if there are several), segment, outcome and effect.
        """
        rows = {
            (policy, segment, outcome, effect): [estimate[end] for end in INTERVAL]
            for policy, answer in self.answers.items()
            for segment, of in answer.get("by_segment", {"segments": {}})["segments"].items()
            for outcome, effects in of["outcomes"].items()
            for effect, estimate in effects.items()
        }
        if not rows:
            raise ValueError("no segments were asked: run.effects(..., by=COLUMN)")
        return self._frame(rows, ["segment", "outcome", "effect"])

    def _frame(self, rows: Mapping[Any, list[float]], names: list[str]) -> pd.DataFrame:
        """Estimates with their intervals, by policy (if there are several) and these."""
        frame = pd.DataFrame.from_dict(rows, "index", columns=list(INTERVAL))
        frame.index = pd.MultiIndex.from_tuples(frame.index, names=["policy", *names])
        return frame if len(self.answers) > 1 else frame.droplevel("policy")

    def plot(self) -> Figure:
        """Effects with their intervals: of one policy all of them, of several engagement against alignment."""
        several = len(self.answers) > 1
        return policies_plane(self.answers) if several else effects_forest(self.to_dict())

    def __repr__(self) -> str:
        lines = []
        for policy, answer in self.answers.items():
            total = [f"{label(o)} {effect_text(of['TE'], o)}" for o, of in answer["outcomes"].items()]
            lines.append(f"{policy}: {', '.join(total)}")
        return f"{self._title}\n  " + "\n  ".join(lines)

    def _repr_html_(self) -> str:
        outcomes = next(iter(self.answers.values()))["outcomes"]
        rows = {
            policy: {label(o): effect_text(answer["outcomes"][o]["TE"], o) for o in outcomes}
            for policy, answer in self.answers.items()
        }
        table = pd.DataFrame.from_dict(rows, "index").to_html(border=0)
        said = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in self.sentences)
        found = "".join(f"<p><strong>{html.escape(headline)}</strong></p>" for headline in self.headlines)
        return f"{found}<p>{self._title}</p>{table}<ul>{said}</ul>"
