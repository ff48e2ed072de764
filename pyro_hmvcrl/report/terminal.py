"""Runs and answers as a terminal shows them: of an answer the finding, whether to believe it, then all figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pyro_hmvcrl.data.files import read_json
from pyro_hmvcrl.data.names import level_words
from pyro_hmvcrl.report.reading import found_of
from pyro_hmvcrl.report.style import (
    INTERVAL,
    PROBABILITIES,
    Effects,
    estimands_in,
    labels_in,
    levels_in_words,
    most_moved,
    named,
)
from pyro_hmvcrl.report.verdicts import (
    believe,
    category_text,
    doubts,
    effect_text,
    regression_sentences,
    segment_text,
)
from pyro_hmvcrl.run.files import of_file

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
    return "\n\n".join(
        [
            *(f"{name}: {answer['headline']}\n{_believed(answer, run)}" for name, answer in answers.items()),
            f"Total effects, percentage points with {levels_in_words(answers)} intervals\n"
            + pd.DataFrame.from_dict(rows, "index", columns=columns).to_string(),
            *(f"--- {name}\n{effects_text(answer, run)}" for name, answer in answers.items()),
        ]
    )


def effects_text(answer: Effects, run: str | Path) -> str:
    """An answer of a run folder: its headline, and the effects with intervals, flags and overlap."""
    rows = {
        f"{outcome} {name}": [f"{of[name][part]:+.4f}" for part in INTERVAL]
        for outcome, of in answer["outcomes"].items()
        for name in estimands_in(answer)
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
            f"Effects of {', '.join(answer['shift'])} ({answer['kind']}; {level_words(answer['level'])} intervals)",
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


def frontier_text(table: pd.DataFrame, level: float) -> str:
    """The best policies of a frontier, those that have intervals."""
    told = table[table["best"] & table["engagement_lower"].notna()]
    rows = {
        row["policy"] or "as it is": [
            effect_text({part: row[o if part == "mean" else f"{o}_{part}"] for part in INTERVAL}, o)
            for o in PROBABILITIES
        ]
        for row in told.to_dict("records")
    }
    return "\n".join(
        [
            f"\nNo policy of these {len(table)} has more of both (percentage points, {level_words(level)} intervals)",
            pd.DataFrame.from_dict(rows, "index", columns=[*PROBABILITIES]).to_string(),
            'Ask for one of them at length: pyro-hmvcrl effects RUN --policy "NAME: SHIFT, SHIFT"',
        ]
    )


def _believed(answer: Effects, run: str | Path) -> str:
    """Whether to believe an answer."""
    return believe(answer, found_of(run))[1]


def _by_segment(answer: Effects) -> list[str]:
    """Total effects on each segment, if they were asked."""
    if "by_segment" not in answer:
        return []
    of = answer["by_segment"]
    intervals = f"{level_words(answer['level'])} intervals of all together, by {of['correction']}"
    return [
        f"\nTotal effects by {of['by']}, percentage points ({intervals})",
        *(f"- {segment_text(name, each)}" for name, each in of["segments"].items()),
    ]


def _table(rows: Mapping[str, Sequence[str]]) -> str:
    """Estimates and their intervals, a row each."""
    return pd.DataFrame.from_dict(rows, "index", columns=list(INTERVAL)).to_string()


def summary_text(run: str | Path) -> str:
    """A run folder's figures, graph and verdict."""
    found = read_json(Path(run) / "report.json")
    channels = found["identifiability"]["channels"]
    parts = []
    if all(r["mcc"] for r in channels.values()):
        rows = {
            channel: {
                "MCC": r["mcc"]["value"],
                "oracle": r["oracle"]["value"],
                "random rotation": r["rotation_null"]["mean"],
                "covariates only": r["covariate_floor"]["value"],
                "within covariates": r["within_covariate_mcc"]["value"],
                "weak MCC": r["weak_mcc"],
            }
            for channel, r in channels.items()
        }
        table = pd.DataFrame.from_dict(rows, orient="index").round(3).to_string()
        parts = ["", "Recovery of the true factors, held-out users", table]
    graph = pd.read_csv(Path(run) / "graph.csv").round(3).to_string(index=False)
    parts += ["", "Structural graph (standardised weights)", graph]
    parts += ["", "Factors in words (pyro-hmvcrl rename gives them names of your own)"]
    for factor, of in found["factor_categories"].items():
        parts.append(f"- {factor}: {of.get('label') or 'moves no category for sure'}")
    if selection := found.get("selection"):
        parts += ["", "How many factors", *(f"- {sentence}" for sentence in selection["sentences"])]
    if value := found.get("value"):
        parts += ["", "Does what users look for agree with what they say? (held-out users)"]
        parts += [f"- {of['sentence']}" for of in value.values()]
    parts += ["", "Verdict"]
    for sentences in found["identifiability"]["verdict"].values():
        parts += [f"- {sentence}" for sentence in sentences]
    return "\n".join(parts)


def notes_of(run: str | Path) -> list[str]:
    """What is to be known before a run folder's figures are used."""
    path = Path(run) / "report.json"
    with of_file(path):
        return doubts(read_json(path))


def published_text(found: Mapping[str, Any]) -> str:
    """Published against obtained figures, of what kuaisar.json holds."""
    rows = {}
    for row in found["agreement"] + found["figures"]:
        ends = [row["obtained"].get(end) for end in ("lower", "upper")]
        rows[row["figure"]] = {
            "published": row["published"],
            "obtained": row["obtained"]["mean"],
            "90% interval": "" if None in ends else "{:.3f} to {:.3f}".format(*ends),
            "rotated": row.get("rotation_null"),
            "covariates alone": row.get("covariates_alone"),
            "weak MCC": row.get("weak_mcc"),
        }
    table = pd.DataFrame.from_dict(rows, "index").round(3).to_string(na_rep="")
    return f"\nPublished against obtained; policy: {found['shift']}\n{table}"
