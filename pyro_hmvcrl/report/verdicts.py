"""What checks and verdicts come to, in a level and a few words, and numbers as they are printed."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyro_hmvcrl.evidence import predictive
from pyro_hmvcrl.inference.bound import UNRELIABLE
from pyro_hmvcrl.inference.laplace import FAR_FROM_MODE
from pyro_hmvcrl.queries.checks import RARE
from pyro_hmvcrl.report.style import INTERVAL, PROBABILITIES, SURFACES, Effects, label, outcome_scale

WEAK = 0.1  #: a correlation that easily goes unnoticed
TOO_SURE = 1.15  #: ratio of the information-matrix test from which a part of the model is said to be too sure
WEAK_RATIO = 1.1  #: a ratio of risks that does
#: Words of a verdict (identifiability.verdict) that speak against the fit.
AGAINST = (
    "could be",
    "disagree",
    "nothing confirms",
    "collapsed",
    "not above",
    "not recovered",
    "axes are not",
    "is stuck",
)
#: The checks of an answer, and how they are called.
CHECKS = {"factors": "factors", "predictive": "predictive checks", "information": "information"}
CHECKS |= {"overlap": "overlap", "regression": "regression", "placebo": "self-test"}
CHECKS |= {"negative_controls": "negative controls", "noise": "noise", "rho": "correlation rho"}
CHECKS |= {"e_values": "E-values", "controls": "your negative controls", "backtest": "back-test"}
CHECKS |= {"single_users": "single users"}


def trust(verdict: list[str]) -> tuple[str, str]:
    """What a channel's verdict comes to: a level (good, care or no), and whether to believe its factors."""
    if "only up to" in verdict[0]:
        return "no", "Read this channel as a whole; do not interpret its single factors."
    if any(words in sentence for words in AGAINST for sentence in verdict):
        return "no", "Do not rely on its factors: the evidence speaks against this fit."
    if "short of the full condition" in verdict[0]:
        return "care", "Interpret its factors with care: the full condition is not met."
    return "good", "Nothing here speaks against its factors, if the assumptions below hold."


def judge(
    effects: Effects,
    verdict: dict[str, list[str]],
    predictive_checks: dict[str, Any],
    information: dict[str, float],
    validation: dict[str, Any] | None = None,
    pareto_k: dict[str, float] | None = None,
) -> dict[str, tuple[str, str]]:
    """What the checks of an answer come to: for each a level (good, care, no; empty: neither) and, shortly, why.

    `validation` is that of the run, if it was held against later logs, `pareto_k` that of its guide.
    """
    levels = {channel: trust(sentences)[0] for channel, sentences in verdict.items()}
    doubted = [channel for channel, level in levels.items() if level != "good"]
    supported = effects["overlap"]["verdict"].partition(":")[0]
    leaks, unlike = (
        [name for name, found in effects[check].items() if found["verdict"] != "passes"]
        for check in ("negative_controls", "noise")
    )
    checks = {
        "factors": ("care", f"doubt on {' and '.join(doubted)}")
        if doubted
        else ("good", "nothing against them"),
        "predictive": (predictive.verdict(predictive_checks)[0], _alike(predictive_checks)),
        "information": _judge_information(information),
        "overlap": ({"supported": "good", "in part": "care"}.get(supported, "no"), supported),
        "negative_controls": ("no", "failed") if leaks else ("good", "passed"),
        "noise": ("care", f"failed: {' and '.join(unlike)}") if unlike else ("good", "passed"),
    }
    if "regression" in effects:
        checks["regression"] = _judge_regression(effects)
    if controls := effects.get("controls"):
        moved = [name for name, of in controls.items() if of["verdict"] != "passes"]
        checks["controls"] = ("no", f"moved: {', '.join(moved)}") if moved else ("good", "not moved")
    if "placebo" in effects:
        p, covers, of = (effects["placebo"][part] for part in ("p", "covers_zero", "of"))
        level = "good" if p >= RARE else "care" if covers >= of / 2 else "no"
        checks["placebo"] = level, f"covers zero {covers} of {of}, p {p:.2f}"
    if "sensitivity" in effects:
        checks["rho"] = _judge_rho(effects["sensitivity"])
    if "e_values" in effects:
        checks["e_values"] = _judge_e_values(effects)
    if validation:
        checks["backtest"] = _judge_backtest(validation)
    if pareto_k and effects["kind"] == "counterfactual":
        far = pareto_k["median"] > UNRELIABLE
        checks["single_users"] = (
            ("care", "far from the model's own posterior") if far else ("good", "near it")
        )
    return checks


def passing(check: dict[str, Any]) -> str:
    """From where to where a predictive check passes, in words."""
    low, high = predictive.passes(check)
    return (
        f"up to {number_text(high, 0)}"
        if low == -np.inf
        else f"{number_text(low, 0)} to {number_text(high, 0)}"
    )


def _alike(checks: dict[str, Any]) -> str:
    failed = sum(check["level"] != "good" for check in checks.values())
    return f"{len(checks) - failed} of {len(checks)} pass"


def doubts(report: dict[str, Any]) -> list[str]:
    """What is to be known before a run's figures are used: predictive checks that failed, and remarks on the data."""
    level, said = predictive.verdict(report["predictive"]["checks"])
    failed = [sentence.removesuffix(".") for sentence in said] if level != "good" else []
    k = report.get("pareto_k")
    users = [of_single_users(k).removesuffix(".")] if k and k["median"] > UNRELIABLE else []
    return [*failed, *users, *report.get("remarks", [])]


def _judge_information(ratios: dict[str, float]) -> tuple[str, str]:
    more = [f"{block} {ratio:.2f}" for block, ratio in ratios.items() if ratio > TOO_SURE]
    return ("care", f"too sure: {', '.join(more)}") if more else ("good", "as expected")


def _judge_regression(effects: Effects) -> tuple[str, str]:
    apart = [outcome for outcome, of in effects["regression"].items() if not of["agrees"]]
    if apart:
        return "no", f"disagrees on {' and '.join(apart)}"
    unknown = [outcome for outcome in PROBABILITIES if outcome not in effects["regression"]]
    return ("care", f"too few users tell of {' and '.join(unknown)}") if unknown else ("good", "agrees")


def _judge_backtest(validation: dict[str, Any]) -> tuple[str, str]:
    of = validation["coverage"]["all"]
    inside = f"{of['inside']} of {of['of']} figures inside"
    if of["p"] < RARE:
        return "no", f"failed: {inside}"
    return "" if of["as_before"] >= validation["level"] * of["of"] else "good", inside


def regression_sentences(effects: Effects) -> list[str]:
    """Where the logs' own regression disagrees with the model, in words."""
    said = []
    for outcome, of in effects.get("regression", {}).items():
        if not of["agrees"]:
            model, logs = (
                f"{number_text(outcome_scale(outcome) * mean, 2 if outcome in PROBABILITIES else 4)}"
                for mean in (effects["outcomes"][outcome]["TE"]["mean"], of["mean"])
            )
            said.append(
                f"{label(outcome).capitalize()}: the model says {model}, the logs' own regression {logs}: do not "
                "believe the split, nor the total."
            )
    return said


def _judge_rho(curve: dict[str, Any]) -> tuple[str, str]:
    first = {part: curve[f"first_rho_with_zero_in_{part}"] for part in ("NDE", "NIE")}
    undone = {part: rho for part, rho in first.items() if rho}
    if not undone:
        none = [part for part, rho in first.items() if rho == 0]
        most = max(map(abs, curve["rho"]))
        said = (
            f"{' and '.join(none)} may be none"
            if none
            else f"NDE and NIE stand up to {most:g} to either side"
        )
        return "" if none else "good", said
    said = ", ".join(f"{rho:g} may undo {part}" for part, rho in undone.items())
    return "care" if min(undone.values()) <= WEAK else "", said


def _judge_e_values(effects: Effects) -> tuple[str, str]:
    """How strong a common cause of the policy and engagement would have to be to undo the total effect."""
    ratio = effects["e_values"]["TE"]["e_value_of_interval"]
    if ratio == 1:
        return "", "TE may be none"
    return "care" if ratio < WEAK_RATIO else "", f"a ratio of {ratio:.2f} undoes TE"


def overall(checks: dict[str, tuple[str, str]]) -> tuple[str, str]:
    """What the checks come to together: the worst level, and whether to believe the answer."""
    of_level = {
        level: "; ".join(f"{CHECKS[name]} ({why})" for name, (found, why) in checks.items() if found == level)
        for level in ("no", "care")
    }
    if of_level["no"]:
        return "no", f"Do not rely on this answer. Against it: {of_level['no']}."
    if of_level["care"]:
        return "care", f"Use this answer with care: {of_level['care']}."
    return "good", (
        "No check speaks against this answer, if no common cause outside the covariates moves it, and what the policy "
        "shifts is measured without error."
    )


def checks_of(effects: Effects, report: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """:func:`judge` of an answer, of which `report` is the run's, with the back-test if there was one."""
    verdict, checks = report["identifiability"]["verdict"], report["predictive"]["checks"]
    of_run = report["information"], report.get("validation"), report.get("pareto_k")
    return judge(effects, verdict, checks, *of_run)


def believe(effects: Effects, report: dict[str, Any]) -> tuple[str, str]:
    """Whether to believe an answer, of which `report` is the run's: see :func:`overall`."""
    return overall(checks_of(effects, report))


def scored(distances: list[float]) -> str:
    """What `score_to_the_mode` saw, in a sentence."""
    if not distances:
        return (
            "Users are too few for so many parameters to bring the fit to the mode of their posterior: effects may be "
            "off by what the bound leaves open."
        )
    before, after = (max(d, 0) ** 0.5 for d in (distances[0], min(distances)))
    far = (
        f" More than {FAR_FROM_MODE} is far: take more users or more steps." if after > FAR_FROM_MODE else ""
    )
    return (
        f"Fisher scoring with all users found the parameters {number_text(before, 2)} standard deviations from the "
        f"mode of their posterior (root mean square), and left them within {number_text(after, 2)}.{far}"
    )


def of_single_users(k: dict[str, float]) -> str:
    """How near users' posteriors come to the model's own, in a sentence; `k` is of `judge.guide_quality`."""
    median, share = number_text(k["median"], 2), number_text(100 * k["unreliable"], 0)
    if k["median"] > UNRELIABLE:
        return (
            f"What is said of single users is far from the model's own posterior (median Pareto k-hat {median}, more "
            f"than {UNRELIABLE}): use no user's factors by themselves."
        )
    return (
        f"What is said of single users is near the model's own posterior: median Pareto k-hat {median}, and more than "
        f"{UNRELIABLE} in {share}% of the held-out users."
    )


def effect_text(e: dict[str, float], outcome: str) -> str:
    """Mean and interval of an effect, in percentage points if the outcome is a probability."""
    return f"{'+' if e['mean'] > 0 else ''}{level_text(e, outcome)}"


def category_text(effects: Effects, category: str) -> str:
    """From what to what a category's shares go, in percent."""
    of = effects["categories"][category]
    said = []
    for surface in SURFACES:
        before, (mean, lower, upper) = (
            of[surface]["before"],
            (of[surface]["after"][part] for part in INTERVAL),
        )
        ends = f"{100 * lower:.1f} to {100 * upper:.1f}"
        said.append(f"{surface} {100 * before['mean']:.1f}% to {100 * mean:.1f}% ({ends})")
    return f"{label(category, 60)}: {', '.join(said)}"


def segment_text(name: str, segment: Effects) -> str:
    """Total effects on the users of a segment."""
    said = [f"{label(o)} {effect_text(of['TE'], o)}" for o, of in segment["outcomes"].items()]
    return f"{label(name, 60)}, {segment['users']:,} users: {', '.join(said)}"


def level_text(e: dict[str, float], outcome: str) -> str:
    """Mean and interval of a level, in percentage points if the outcome is a probability."""
    return interval_text(e, 2 if outcome in PROBABILITIES else 4, outcome_scale(outcome))


def interval_text(e: dict[str, float], digits: int, scale: float = 1.0) -> str:
    """Mean and interval, times `scale`, with this many decimals."""
    mean, lower, upper = (number_text(scale * e[part], digits) for part in INTERVAL)
    return f"{mean} ({lower} to {upper})"


def number_text(value: float | None, digits: int = 3) -> str:
    """A number with this many decimals; a dash where there is none."""
    if value is None:
        return "–"
    return f"{float(value):z,.{digits}f}".replace("-", "−")  # float: a value that is missing says its name
