"""Answers as a terminal shows them: the finding, whether to believe it, then all figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from pyro_hmvcrl.data.files import read_json
from pyro_hmvcrl.report.style import ESTIMANDS, INTERVAL, PROBABILITIES, Effects, labels_in, most_moved, named
from pyro_hmvcrl.report.verdicts import (
    believe,
    category_text,
    effect_text,
    regression_sentences,
    segment_text,
)

MOST_SAID = 6  #: categories


def answers_text(answers: Mapping[str, Effects], run: str | Path) -> str:
    """Answers of a run folder: one as :func:`effects_text`, several side by side before their figures."""
    if len(answers) == 1:
        return effects_text(next(iter(answers.values())), run)
    rows = {
        name: [effect_text(of["outcomes"][o]["TE"], o) for o in PROBABILITIES]
        + [f"{of[p]:.2f}" for p in ("substitution", "substitution_undone")]
        for name, of in answers.items()
    }
    columns = [*PROBABILITIES, "P(substitution)", "P(its reverse)"]
    level = next(iter(answers.values()))["level"]
    return "\n\n".join(
        [
            *(f"{name}: {answer['headline']}\n{_believed(answer, run)}" for name, answer in answers.items()),
            f"Total effects, percentage points with {level:.0%} intervals\n"
            + pd.DataFrame.from_dict(rows, "index", columns=columns).to_string(),
            *(f"--- {name}\n{effects_text(answer, run)}" for name, answer in answers.items()),
        ]
    )


def effects_text(answer: Effects, run: str | Path) -> str:
    """An answer of a run folder: its headline, and the effects with intervals, flags and overlap."""
    rows = {
        f"{outcome} {name}": [f"{of[name][part]:+.4f}" for part in INTERVAL]
        for outcome, of in answer["outcomes"].items()
        for name in ESTIMANDS
        if name != "NIE_loop" or len(answer["course"]["period"]) > 1
    }
    labels = labels_in(answer)
    moved = {
        named(factor, labels, 60): [f"{of[part]:+.2f}" for part in INTERVAL]
        for factor, of in answer["displacement"].items()
    }
    said = [*regression_sentences(answer), *answer["sentences"], f"Overlap: {answer['overlap']['verdict']}."]
    return "\n".join(
        [
            f"{answer['headline']}\n{_believed(answer, run)}\n",
            f"Effects of {', '.join(answer['shift'])} ({answer['kind']}; {answer['level']:.0%} intervals)",
            _table(rows),
            "\nCategories whose shares move most (all of them in the JSON file)",
            *(f"- {category_text(answer, c)}" for c in most_moved(answer, MOST_SAID)),
            *_by_segment(answer),
            "\nBy how much the factors move, in standard deviations",
            _table(moved),
            "",
            *(f"- {sentence}" for sentence in said),
        ]
    )


def _believed(answer: Effects, run: str | Path) -> str:
    """Whether to believe an answer."""
    return believe(answer, read_json(Path(run) / "report.json"))[1]


def _by_segment(answer: Effects) -> list[str]:
    """Total effects on each segment, if they were asked."""
    if "by_segment" not in answer:
        return []
    of = answer["by_segment"]
    title = f"\nTotal effects by {of['by']}, percentage points ({answer['level']:.0%} intervals of all together, by "
    return [
        f"{title}{of['correction']})",
        *(f"- {segment_text(name, each)}" for name, each in of["segments"].items()),
    ]


def _table(rows: Mapping[str, Sequence[str]]) -> str:
    """Estimates and their intervals, a row each."""
    return pd.DataFrame.from_dict(rows, "index", columns=list(INTERVAL)).to_string()
