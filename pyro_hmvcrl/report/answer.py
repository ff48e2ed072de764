"""Answers to look at: a table, a figure, a line in a terminal, a few lines in a notebook."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from pyro_hmvcrl.report.answer_figures import effects_forest, policies_forest
from pyro_hmvcrl.report.style import ESTIMANDS, INTERVAL, PROBABILITIES, label, to_bytes
from pyro_hmvcrl.report.verdicts import effect_text, regression_sentences


class Answer:
    """What one policy or several come to, by name: see :func:`~pyro_hmvcrl.queries.answer.effects` for what is in it.

    Parameters
    ----------
    answers
        What :func:`~pyro_hmvcrl.queries.answer.effects` gave, by the policy's name.
    """

    def __init__(self, answers: Mapping[str, dict[str, Any]]) -> None:
        self.answers = dict(answers)

    def __getitem__(self, name: str) -> Answer:
        """The answer of one of the policies."""
        return Answer({name: self.answers[name]})

    @property
    def policies(self) -> list[str]:
        """Their names."""
        return list(self.answers)

    @property
    def sentences(self) -> list[str]:
        """What is found and how far it can be believed, in words."""
        several = len(self.answers) > 1
        return [
            f"{name}: {sentence}" if several else sentence
            for name, of in self.answers.items()
            for sentence in [
                *regression_sentences(of),
                *of["sentences"],
                f"Overlap: {of['overlap']['verdict']}.",
            ]
        ]

    @property
    def _title(self) -> str:
        level = next(iter(self.answers.values()))["level"]
        return f"Total effects with {100 * level:.4g}% intervals, {' and '.join(PROBABILITIES)} in percentage points"

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
        frame = pd.DataFrame.from_dict(rows, "index", columns=list(INTERVAL))
        frame.index = pd.MultiIndex.from_tuples(frame.index, names=["policy", "outcome", "effect"])
        return frame if len(self.answers) > 1 else frame.droplevel("policy")

    def plot(self) -> Figure:
        """Effects with their intervals: of one policy all of them, of several the total ones side by side."""
        several = len(self.answers) > 1
        figure = policies_forest(self.answers) if several else effects_forest(self.to_dict())
        figure._repr_png_ = lambda: to_bytes(figure, "png")  # a notebook shows it, without pyplot too
        return figure

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
        return f"<p>{self._title}</p>{table}<ul>{said}</ul>"
