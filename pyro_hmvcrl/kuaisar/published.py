"""KuaiSAR's published figures, and what this package obtains, in one table.

Real logs have no true factors.  In their place stand three references, all from a **later period** that the fit never
saw, each compared at users whom the fit never saw either:

**Target factors**, a channel at a time and without the model: factor analysis of the users' smoothed log shares of
categories (of clicked search results for preference, of deliveries for platform), its axes turned to be as independent
as they can be (FastICA).
**A second fit**, of the later period alone: if the axes were not identified, two fits would agree no better than after
a random rotation of one of them.
**Test-retest**: the first fit's own factors, read from the later logs.

Covariates are measured in the first quarter of each period, and its events are those of the rest, so that no covariate
is made of the events that it is to explain.  The published figures had both of one window; a share of 0 does the same,
for a comparison of like with like.

The published MCC's reference is not described closely enough to be rebuilt, so these stand beside it rather than for
it.  A generated copy of KuaiSAR has true factors, and its table has them too.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.decomposition import FactorAnalysis, FastICA
from sklearn.exceptions import ConvergenceWarning

from pyro_hmvcrl import __version__
from pyro_hmvcrl.data.dataset import CHANNELS, Dataset
from pyro_hmvcrl.data.files import clear_away, read_json
from pyro_hmvcrl.data.folder import read_dataset
from pyro_hmvcrl.evidence.measures import cross_r2, mcc, rotated_mcc, weak_mcc, within_covariate_mcc
from pyro_hmvcrl.guide.experts import factor_posterior
from pyro_hmvcrl.inference.ambient import own_state
from pyro_hmvcrl.inference.settings import Settings
from pyro_hmvcrl.inference.writing import alone_in, whole_file
from pyro_hmvcrl.kuaisar.covariates import COVARIATES_SHARE
from pyro_hmvcrl.kuaisar.files import Files
from pyro_hmvcrl.kuaisar.folder import write_kuaisar
from pyro_hmvcrl.kuaisar.logs import Kuaisar
from pyro_hmvcrl.kuaisar.reading import read_kuaisar
from pyro_hmvcrl.queries.answer import LEVEL, effects, write_effects
from pyro_hmvcrl.queries.interventions import parse_shift
from pyro_hmvcrl.run.fitting import fit_folder, is_run_of
from pyro_hmvcrl.run.judge import Truth
from pyro_hmvcrl.run.load import load_run
from pyro_hmvcrl.run.run import Run

Array = NDArray[np.float64]
Row = dict[str, Any]
PUBLISHED = {"platform": 0.944, "preference": 0.713, "r2": 0.046}
EARLIER = 0.7  #: share of the window that is fitted
SHIFT = "popularity=+1sd"
PSEUDO_EVENTS = 5.0  #: of the average user, in a share of categories: one event is not a share of 1
FEWEST_USERS = 20  #: that a figure needs


class StudyError(ValueError):
    """A study that cannot go on: the message names the folder and the mend."""


@own_state()
def study(
    source: str | Path,
    out: str | Path,
    settings: Settings,
    level: str = "first",
    shift: str = SHIFT,
    progress: bool = False,
    covariates_share: float = COVARIATES_SHARE,
) -> dict[str, Any]:
    """Import, fit, ask and compare; returns the table, which is also written to ``OUT/run/kuaisar.json``.

    `out` gets ``earlier`` and ``later`` (dataset folders), ``run`` (the fit of the earlier period) and ``second-run``
    (of the later).  What is there already is not done again, so a study that was killed goes on.

    Parameters
    ----------
    covariates_share
        Of each period, its first part: as of :func:`~pyro_hmvcrl.kuaisar.folder.write_kuaisar`.

    Raises
    ------
    StudyError
        If `out` holds a study of another source or other settings.
    """
    source, out = Path(source), Path(out)
    wanted = str(parse_shift(shift))  # a typing error is told before the fits
    _check_place(out)
    asked: dict[str, Any] = {"version": __version__, "level": level, "settings": asdict(settings)}
    asked["covariates_share"] = covariates_share
    asked["source"] = _digest(source, out)
    _check_claim(out, asked)
    if not (out / "later").exists():
        logs = read_kuaisar(source, level, progress=progress)
        out.mkdir(parents=True, exist_ok=True)
        with whole_file(out / "study.json") as file:
            file.write_text(json.dumps(asked, indent=2))
        _two_periods(logs, out, covariates_share)
    _enough_users(out, settings)
    for data, run in (("earlier", "run"), ("later", "second-run")):
        if not (out / run).exists():
            fit_folder(out / data, out / run, settings, progress)
        elif not is_run_of(out / run, out / data, settings):
            raise StudyError(f"{out / run}: not the fit of {out / data} with these settings; remove it")
    with alone_in(out / "run"):
        if not _asked(out / "run" / "effects.json", wanted):
            answer = effects(out / "run", [parse_shift(shift)], progress=progress)
            write_effects(answer, out / "run" / "effects.json")
        found = {"shift": shift} | compare(out)
        with whole_file(out / "run" / "kuaisar.json") as file:
            file.write_text(json.dumps(found, indent=2, allow_nan=False))
    for left in (*out.glob(".*.partial"), *out.glob(".*.unfinished")):  # of what was killed at its very end
        clear_away(left)
    return found


def _digest(source: Path, out: Path) -> str:
    """Of the content of KuaiSAR's files, wherever they stand."""
    digest, stems = hashlib.sha256(), {name.partition(".")[0] for name in Files(source).found}
    paths = [source] if source.is_file() else sorted(source.rglob("*"))
    for path in paths:
        names = path.relative_to(source).parts
        is_read = path == source or any(name.partition(".")[0].lower() in stems for name in names)
        if path.is_file() and is_read and out.resolve() not in path.resolve().parents:
            with path.open("rb") as file:
                digest.update("/".join(names).encode("utf-8", "surrogateescape"))
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _check_place(out: Path) -> None:
    """Refuse a folder of anything but a study; one that was killed at its start has nothing in it."""
    if not out.exists() or (out / "study.json").exists():
        return
    if not out.is_dir() or any(not p.name.startswith(".study.json.") for p in out.iterdir()):
        raise StudyError(f"{out}: exists already, and is no study; choose another folder")


def _check_claim(out: Path, asked: dict[str, Any]) -> None:
    """Refuse to go on with a study of something else."""
    marker = out / "study.json"
    try:
        same = not marker.exists() or read_json(marker) == asked
    except ValueError:
        same = False
    if not same:
        raise StudyError(
            f"{out}: a study of another source or other settings; choose another folder or remove it"
        )


def _two_periods(logs: Kuaisar, out: Path, covariates_share: float) -> None:
    first, last = logs.window
    border = round(first + EARLIER * (last - first))
    for name, part in (("earlier", logs.between(until=border)), ("later", logs.between(since=border))):
        if not (out / name).exists():
            write_kuaisar(part, out / name, covariates_share=covariates_share)


def _enough_users(out: Path, settings: Settings) -> None:
    earlier, later = (
        pd.read_parquet(out / name / "users.parquet")["user_id"] for name in ("earlier", "later")
    )
    judged = int(settings.held_out * earlier.isin(later).sum())
    if judged < FEWEST_USERS:
        raise StudyError(
            f"{out}: {judged} users would be held out and in both periods; {FEWEST_USERS} are needed"
        )


def _asked(path: Path, shift: str) -> bool:
    """Whether a run's answer is that to this shift, with nothing else asked for."""
    try:
        answer = read_json(path)
    except (OSError, ValueError):  # not there, or no answer: it is asked anew
        return False
    wanted = {"shift": [shift], "kind": "interventional", "level": LEVEL}
    return isinstance(answer, dict) and all(answer.get(key) == value for key, value in wanted.items())


@own_state()
def compare(out: str | Path) -> dict[str, list[Row]]:
    """The rows of the table, from the folders that :func:`study` made: MCCs, and other figures."""
    out = Path(out)
    run, second = load_run(out / "run"), load_run(out / "second-run")
    earlier = read_dataset(out / "earlier", run.categories, run.periods)
    later = read_dataset(out / "later", run.categories, run.periods)
    factors = pd.read_parquet(out / "run" / "factors.parquet")
    users = factors.loc[factors["held_out"].astype(bool), "user_id"]
    users = users[users.isin(later.user_id)].to_numpy()
    answer = json.loads((out / "run" / "effects.json").read_text())
    mean, prior = _factors(run, earlier, users)
    own = read_dataset(out / "later", second.categories, second.periods)
    again = {"retest": _factors(run, later, users)[0], "second": _factors(second, own, users)[0]}
    truth = Truth.beside(out / "earlier", earlier)
    rows: list[Row] = []
    for channel in CHANNELS:
        target, has_target = target_factors(later, channel, run.config[f"{channel}_factors"], users)
        references = {"target factors": target, "a second fit, of the later period": again["second"][channel]}
        references["the same fit, reading the later period"] = again["retest"][channel]
        if truth:
            references["the true factors"] = truth.factors[channel][_rows(earlier, users)]
        for name, reference in references.items():
            here = has_target if name == "target factors" else np.ones(len(users), bool)
            row = _agreement(
                reference[here], mean[channel][here], prior[channel][here], _known(earlier, users[here])
            )
            published = PUBLISHED[channel] if name == "target factors" else None
            rows.append({"figure": f"{channel} MCC against {name}", "published": published} | row)
    return {"agreement": rows, "figures": _r2(earlier, users, mean, truth) + _policy(answer)}


def target_factors(
    dataset: Dataset, channel: str, n_factors: int, users: NDArray[Any]
) -> tuple[Array, NDArray[np.bool_]]:
    """Factors of one channel without the model ``(users, K)``, and which users have events to tell them."""
    counts = (dataset.search if channel == "preference" else dataset.exposure).astype(float)
    counts = counts[:, counts.sum(0) > 0]
    log_share = np.log(counts + PSEUDO_EVENTS * counts.sum(0) / counts.sum())
    log_share -= log_share.mean(1, keepdims=True)
    told = counts.sum(1) > 0
    scores = FactorAnalysis(n_factors).fit(log_share[told]).transform(log_share)
    axes = FastICA(n_factors, whiten="unit-variance", max_iter=1_000, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # Gaussian scores have no axes to find
        axes.fit(scores[told])
    rows = _rows(dataset, users)
    return np.asarray(axes.transform(scores[rows])), told[rows]


def _factors(run: Run, dataset: Dataset, users: NDArray[Any]) -> tuple[dict[str, Array], dict[str, Array]]:
    """Posterior means of each channel ``(users, K)``, and what the covariates alone predict."""
    logs = run.logs(dataset)
    prior, noise = run.guide.posterior(logs.batch(logs.index[_rows(dataset, users)]))
    mean, _ = factor_posterior(prior, noise)
    n = run.guide.model.n_platform
    split = [
        {"platform": a[:, :n], "preference": a[:, n:]} for a in (mean, prior.of_factors[0].double().numpy())
    ]
    return split[0], split[1]


def _rows(dataset: Dataset, users: NDArray[Any]) -> NDArray[np.intp]:
    return pd.Index(dataset.user_id).get_indexer(users)


def _known(dataset: Dataset, users: NDArray[Any]) -> Array:
    return np.hstack([dataset.covariates(c) for c in CHANNELS])[_rows(dataset, users)]


def _agreement(reference: Array, estimate: Array, prior: Array, covariates: Array) -> Row:
    """MCC with its interval, and all that it needs beside it."""
    score = mcc(reference, estimate)
    return {
        "obtained": {"mean": score.value, "lower": score.lower, "upper": score.upper},
        "users": len(reference),
        "rotation_null": rotated_mcc(reference, estimate),
        "covariates_alone": mcc(reference, prior, n_bootstrap=0).value,
        "within_covariates": within_covariate_mcc(reference, estimate, covariates, n_bootstrap=0).value,
        "weak_mcc": weak_mcc(reference, estimate),
    }


def _r2(dataset: Dataset, users: NDArray[Any], mean: dict[str, Array], truth: Truth | None) -> list[Row]:
    """How much the exposure covariates tell of preference, out of fold."""
    exposure = dataset.covariates("platform")[_rows(dataset, users)]

    def r2(factors: Array) -> dict[str, float]:
        return {"mean": cross_r2({"exposure": exposure}, {"preference": factors})["exposure"]["preference"]}

    name = "R² of the exposure covariates on preference"
    rows = [
        {
            "figure": name,
            "published": PUBLISHED["r2"],
            "obtained": r2(mean["preference"]),
            "users": len(users),
        }
    ]
    if truth:
        true = truth.factors["preference"][_rows(dataset, users)]
        rows.append(
            {"figure": f"{name}, true factors", "published": None, "obtained": r2(true), "users": len(users)}
        )
    return rows


def _policy(answer: dict[str, Any]) -> list[Row]:
    """What the policy shift moves."""
    rows: list[Row] = []
    for channel in CHANNELS:
        moved = [of for factor, of in answer["displacement"].items() if factor.startswith(channel)]
        most = max(moved, key=lambda of: abs(of["mean"]))
        rows.append({"figure": f"largest displacement of a {channel} factor, sd", "obtained": most})
    for outcome, of in answer["outcomes"].items():
        rows += [{"figure": f"{outcome}: {part}", "obtained": of[part]} for part in ("TE", "NDE", "NIE")]
    for name in ("suppression", "substitution"):
        rows.append({"figure": f"probability of {name}", "obtained": {"mean": answer[name]}})
    return [{"published": None, "users": answer["users"]} | row for row in rows]
