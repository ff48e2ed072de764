"""Claims about the report. The runs are made with numpy: no model is fitted."""

from __future__ import annotations

import copy
import html
import itertools
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from browser import BROWSER, look
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.patches import FancyArrowPatch

from pyro_hmvcrl.evidence.identifiability import ChannelEvidence, identifiability
from pyro_hmvcrl.evidence.predictive import Statistic, compare, histograms
from pyro_hmvcrl.report import run_figures
from pyro_hmvcrl.report.answer import Answer
from pyro_hmvcrl.report.answer_figures import (
    SHOWN_PATHS,
    effects_displacement,
    effects_dose,
    effects_forest,
    effects_sensitivity,
    policies_plane,
)
from pyro_hmvcrl.report.page import write_report
from pyro_hmvcrl.report.reading import ReportError, found_of
from pyro_hmvcrl.report.style import HUES, INK, RULE, strongest
from pyro_hmvcrl.report.terminal import effects_text
from pyro_hmvcrl.report.verdicts import believe, doubts, judge, of_single_users, overall, scored, trust
from pyro_hmvcrl.story.history import LOOKS_AT

COVARIATES = {
    "platform": ["feed_share", "push_notifications", "new_interface", "autoplay_minutes"],
    "preference": [
        "age",
        "tenure_months",
        "search_active_level",
        "sessions_per_week",
        "follows",
        "night_share",
    ],
}
LABELS = {"platform_1": "feeds of the <night>", "preference_3": "westerns against old cars"}
SIZES = {"platform": 2, "preference": 3}
NAMES = [f"{c}_{k + 1}" for c, n in SIZES.items() for k in range(n)]
WEIGHTS = {("platform_1", "preference_1"): 0.57, ("platform_2", "preference_2"): -0.58}
OTHERS = {"platform": "preference", "preference": "platform"}


def write_run(folder: Path, truth: bool = True, users: int = 4000, seed: int = 0) -> Path:
    """A run folder as `fit` leaves it, of a world with two edges."""
    rng = np.random.default_rng(seed)
    held = rng.permutation(users) < users // 5
    units = {c: _covariates(rng, c, users) for c in COVARIATES}
    standard = {c: (x - x.mean(0)) / x.std(0) for c, x in units.items()}
    mechanisms, evidence, columns = {}, {}, {"user_id": [f"u{i}" for i in rng.permutation(users)]}
    unlike = (0.1, 0.1, 0.1) if truth else (0.1, 2.0, 2.0)  # how far restarts are from what was kept
    true: dict[str, np.ndarray] = {}
    for channel, k in SIZES.items():
        d = len(COVARIATES[channel])
        location, log_scale = (rng.normal(size=(d, k)) * (rng.random((d, k)) < 0.6) for _ in range(2))
        location += 0.8 * np.eye(d, k)
        location *= 0.7 / np.linalg.norm(location, axis=0)
        log_scale += 0.8 * np.eye(d, k, -1)
        log_scale *= 0.5 / np.linalg.norm(log_scale, axis=0)
        m, s = standard[channel] @ location, np.exp(standard[channel] @ log_scale)
        z = m + s * rng.normal(size=(users, k))
        for (source, target), weight in WEIGHTS.items():
            if target.startswith(channel):
                z[:, int(target[-1]) - 1] += weight * true[source] * 1.2
        sd = rng.uniform(0.25, 0.5, size=(users, k))
        estimate = z + sd * rng.normal(size=z.shape)
        for j in range(k):
            name = f"{channel}_{j + 1}"
            true[name], columns[name], columns[f"{name}_sd"] = z[:, j], estimate[:, j], sd[:, j]
            if truth:
                columns[f"{name}_true"] = z[:, j]
        evidence[channel] = ChannelEvidence(
            estimate=estimate[held], location=m[held], scale=s[held],
            covariates=standard[channel][held], other_covariates=standard[OTHERS[channel]][held],
            kl=np.log(1 / sd)[held], truth=z[held] if truth else None,
            oracle=(z + sd * rng.normal(size=z.shape))[held] if truth else None,
            restarts=[estimate[held] + e * rng.normal(size=(held.sum(), k)) for e in unlike],
            n_train=int((~held).sum()),
        )  # fmt: skip
        mechanisms[channel] = {
            "covariates": COVARIATES[channel],
            "location": location.tolist(), "location_sd": rng.uniform(0.02, 0.06, (d, k)).tolist(),
            "log_scale": log_scale.tolist(), "log_scale_sd": rng.uniform(0.02, 0.05, (d, k)).tolist(),
        }  # fmt: skip
    folder.mkdir(parents=True)
    pd.DataFrame(columns | {"held_out": held}).to_parquet(folder / "factors.parquet")
    table = {n: units[c][:, i] for c in COVARIATES for i, n in enumerate(COVARIATES[c])}
    order = rng.permutation(users)  # covariates.parquet has the dataset's order, not factors.parquet's
    covariates = pd.DataFrame({"user_id": columns["user_id"]} | table).iloc[order]
    covariates.to_parquet(folder / "covariates.parquet", index=False)
    edges = [
        (
            p,
            q,
            WEIGHTS.get((p, q), rng.normal(0, 0.03)),
            0.02,
            1.0 if (p, q) in WEIGHTS else rng.uniform(0.02, 0.4),
        )
        for p in NAMES[: SIZES["platform"]]
        for q in NAMES[SIZES["platform"] :]
    ]
    graph = pd.DataFrame(edges, columns=["source", "target", "weight", "sd", "probability"])
    graph.to_csv(folder / "graph.csv", index=False)
    history = [_training("screening", r, 3000, -96.0 - 0.4 * (r == 3), rng) for r in range(4)]
    pd.concat([*history, _training("amortisation", -1, 1000, -95.8, rng)]).to_csv(
        folder / "training.csv", index=False
    )
    bounds = [-96.0, -96.02, -95.9, -96.4]
    report = {
        "identifiability": identifiability(evidence, n_bootstrap=50).to_dict(),
        "restarts": [
            {"restart": r, "bound": b + 0.4, "held_out_bound": b, "selected": r == 2}
            for r, b in enumerate(bounds)
        ],
        "mechanisms": mechanisms,
        "scoring": [4.0, 0.25, 0.0025],
        "information": {"search": 1.01, "engagement": 0.97},
        "readiness": 0.19,
        "pareto_k": {"median": 0.31, "unreliable": 0.04},
        "held_out_bound": {"mean": -95.97, "standard_error": 0.31},
        "graph": graph.to_dict("records"),
        "factor_categories": {f: _described(rng) | {"label": LABELS.get(f, "")} for f in NAMES},
        "predictive": _predictive(rng),
        "history": _history(rng) if truth else None,  # of one period there is none
    }
    (folder / "report.json").write_text(json.dumps(report, allow_nan=False))
    config = {
        "version": "0.2.0", "periods": {"start": 0, "length": 86_400_000, "number": 3},
        "name": "simulated <world>", "platform_factors": 2, "preference_factors": 3,
        "exposure_covariates": COVARIATES["platform"], "preference_covariates": COVARIATES["preference"],
        "categories": [str(c) for c in range(24)], "standardisation": {}, "settings": {"restarts": 4, "seed": 0},
        "users": users, "held_out_users": int(held.sum()), "search_events": 96123,
        "recommendation_events": 192456, "seconds": 341.2,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def _covariates(rng: np.random.Generator, channel: str, users: int) -> np.ndarray:
    """In their own units: skewed, 0/1 and ordinal ones among them."""
    x = rng.normal(size=(users, len(COVARIATES[channel])))
    if channel == "platform":
        return np.column_stack([0.5 + 0.1 * x[:, 0], np.exp(0.5 * x[:, 1]), x[:, 2] > 0, 30 + 8 * x[:, 3]])
    x[:, 0], x[:, 1], x[:, 2] = (
        35 + 9 * x[:, 0],
        rng.exponential(14, users),
        np.clip(np.rint(x[:, 2] + 3), 0, 6),
    )
    return x


def _described(rng: np.random.Generator) -> dict:
    """Categories by what a factor does to their log shares, the most raised first."""
    change = np.sort(rng.normal(0, 0.3, 24))[::-1]
    names = [str(c) for c in rng.permutation(24)]
    ends = {n: {"mean": m, "lower": m - 0.1, "upper": m + 0.1} for n, m in zip(names, change, strict=True)}
    return {"raised": names[:5], "lowered": names[:-6:-1], "change": ends}


def _history(rng: np.random.Generator) -> dict:
    """What events owe to the past."""
    weights = {
        name: {"features": list(of), "weight": rng.normal(size=len(of)).tolist(), "sd": [0.1] * len(of)}
        for name, of in LOOKS_AT.items()
    }
    names, sizes = COVARIATES["platform"], (len(COVARIATES["platform"]), len(LOOKS_AT["learning"]))
    by_covariate = {
        "covariates": names,
        "weight": rng.normal(size=sizes).tolist(),
        "sd": np.full(sizes, 0.1).tolist(),
    }
    return weights | {"personalisation": by_covariate}


def _predictive(rng: np.random.Generator) -> dict:
    """Two checks that pass and one that fails, and two densities."""
    checks = {}
    for name, observed in (("search_mix", 0.02), ("exposure_mix", -0.01), ("engagement_spread", 0.9)):
        statistic = Statistic(f"What <is> asked of {name}", lambda counts: 0)
        checks[name] = compare(statistic, 1.0 + observed, rng.normal(1.0, 0.05, 200))
    users = rng.normal(size=(31, 500))
    densities = {
        name: histograms(f"{name} of a user", users[0], users[1:]) for name in ("search", "exposure")
    }
    parts = {"replications": 200, "users": 500, "level": 0.9}
    return parts | {"checks": checks, "densities": densities}


def _training(stage: str, restart: int, steps: int, end: float, rng: np.random.Generator) -> pd.DataFrame:
    step = np.arange(1, steps + 1)
    bound = end - 60 * np.exp(-step / 60) - 3 * np.exp(-step / 600) + rng.normal(0, 0.8, steps)
    table = pd.DataFrame({"stage": stage, "restart": restart, "step": step, "bound": bound})
    return table.assign(held_out_bound=np.where(step == steps, end, np.nan))


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return {name: write_run(folder / name, truth=name == "simulated") for name in ("simulated", "real")}


def page_of(run: Path) -> str:
    return write_report(run).read_text()


@pytest.fixture(scope="session")
def pages(runs) -> dict[str, str]:
    """The runs' pages, with their pictures."""
    return {name: page_of(run) for name, run in runs.items()}


@pytest.mark.parametrize("name", ["simulated", "real"])
def test_the_page_stands_alone_and_says_the_verdict_first(runs, pages, name):
    page = pages[name]
    report = json.loads((runs[name] / "report.json").read_text())
    for sentences in report["identifiability"]["verdict"].values():
        for sentence in sentences:
            shown = html.escape(sentence).replace("&#x27;", "&#39;")
            assert shown[1:] in page  # the page starts sentences with a capital
    assert page.index("identified") < page.index("<img")
    assert "simulated &lt;world&gt;" in page
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)
    assert "@import" not in page


@pytest.mark.parametrize("name", ["simulated", "real"])
def test_every_figure_has_words_for_those_who_do_not_see_it(pages, name):
    images = re.findall(r"<img\b[^>]*>", pages[name])
    assert len(images) >= 5
    assert all(len(re.search(r'alt="([^"]*)"', image)[1]) > 30 for image in images)


@pytest.mark.drawn
@pytest.mark.parametrize("bare", [["platform"], ["platform", "preference"]])
def test_a_channel_without_covariates_is_reported_too(runs, tmp_path, bare):
    run = tmp_path / "run"
    shutil.copytree(runs["real"], run, ignore=shutil.ignore_patterns("figures", "report.html"))
    config, report = (json.loads((run / f"{name}.json").read_text()) for name in ("config", "report"))
    for channel in bare:
        config[{"platform": "exposure_covariates"}.get(channel, "preference_covariates")] = []
        report["mechanisms"][channel] = {key: [] for key in report["mechanisms"][channel]}
    (run / "config.json").write_text(json.dumps(config))
    (run / "report.json").write_text(json.dumps(report))
    page = page_of(run)
    assert "covariates: none" in page
    assert ("Factors against covariates" in page) == (len(bare) == 1)


@pytest.mark.usefixtures("pages")
def test_figures_are_written_as_png_and_svg(runs):
    files = {p.name: p.read_bytes() for p in (runs["simulated"] / "figures").iterdir()}
    starts = {"png": b"\x89PNG", "svg": b"<?xml"}
    assert all(content.startswith(starts[name[-3:]]) for name, content in files.items())
    figures = {"overview", "factors", "categories", "graph", "modulation", "coefficients", "training"}
    figures |= {"predictive", "predictive_densities"}
    assert {*files} == {f"{figure}.{kind}" for figure in figures for kind in ("png", "svg")}


def test_report_json_has_the_numbers_of_an_answer_as_long_as_there_is_one(runs, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(runs["real"], run)
    before = json.loads((run / "report.json").read_text())
    (run / "effects.json").write_text(json.dumps(answer()))
    for change, expected in ((lambda: None, {"effects": answer()}), ((run / "effects.json").unlink, {})):
        change()
        write_report(run)
        assert json.loads((run / "report.json").read_text()) == before | expected


def test_the_oracle_is_shown_where_the_truth_is_known_and_only_there(pages):
    assert "Oracle ceiling" in pages["simulated"]
    assert "Oracle ceiling" not in pages["real"]


def test_the_graph_shows_the_weights_of_its_file(runs):
    graph = pd.read_csv(runs["simulated"] / "graph.csv")
    figure = run_figures.graph(graph, NAMES)
    written = {text.get_text() for ax in figure.axes for text in ax.texts}
    for weight in graph.loc[graph["probability"] > 0.5, "weight"]:
        assert f"{weight:+.2f}".replace("-", "−") in written
    assert {"platform 1", "preference 3"} <= written
    figure = run_figures.graph(graph, NAMES, LABELS)
    in_words = {text.get_text() for ax in figure.axes for text in ax.texts}
    assert in_words == written | set(LABELS.values())


def test_every_edge_is_drawn_and_unlikely_ones_are_dashed_and_faint(runs):
    graph = pd.read_csv(runs["simulated"] / "graph.csv")
    (ax,) = run_figures.graph(graph, NAMES).axes
    arrows = {arrow.get_gid(): arrow for arrow in ax.patches if isinstance(arrow, FancyArrowPatch)}
    assert set(arrows) == set(graph["source"] + "->" + graph["target"])
    for edge in graph.itertuples():
        arrow, likely = arrows[f"{edge.source}->{edge.target}"], edge.probability >= 0.5
        assert (arrow.get_linestyle() == "-") == likely
        assert (arrow.get_alpha() > 0.45) == likely


def test_labels_of_a_dense_graph_do_not_overlap():
    rng, factors = np.random.default_rng(0), [f"{c}_{k + 1}" for c in SIZES for k in range(4)]
    pairs = [pair[:: rng.choice([-1, 1])] for pair in itertools.product(factors[:4], factors[4:])]
    graph = pd.DataFrame(pairs, columns=["source", "target"]).assign(probability=1.0)
    figure = run_figures.graph(graph.assign(weight=rng.normal(0, 0.5, len(pairs))), factors)
    FigureCanvasAgg(figure).draw()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


@pytest.mark.parametrize(
    ("sentences", "level"),
    [
        (["preference is identified up to order, sign and scale of each factor: ..."], "good"),
        (["preference is identified only up to rotation: ..."], "no"),
        (["preference could be identified up to order ...", "restarts disagree (MCC 0.80): ..."], "no"),
        (["preference is separated by scale, but short of the full condition for identification"], "care"),
    ],
)
def test_whether_to_believe_a_channel_follows_its_verdict(sentences, level):
    assert trust(sentences)[0] == level


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        ([4.0, 0.25, 0.0025], "found the parameters 2.00 standard deviations from the mode"),
        ([4.0, 0.0025], "and left them within 0.05."),
        ([4.0, 0.0025, 0.01], "and left them within 0.05."),
        ([4.0, 1.0], "within 1.00. More than 0.5 is far: take more users"),
        ([], "Users are too few"),
    ],
)
def test_the_page_says_whether_the_fit_came_to_the_mode(seen, said):
    assert said in scored(seen)


@pytest.mark.parametrize(
    ("median", "said"),
    [
        (
            0.31,
            "near the model's own posterior: median Pareto k-hat 0.31, and more than 0.7 in 4% of the held-out",
        ),
        (
            0.9,
            "far from the model's own posterior (median Pareto k-hat 0.90, more than 0.7): use no user's factors",
        ),
    ],
)
def test_the_page_says_how_far_to_trust_single_users(median, said):
    assert said in of_single_users({"median": median, "unreliable": 0.04})


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("report.json", None, "report.json"),
        ("report.json", "{", "report.json"),
        ("config.json", "{}", "config.json"),
        ("graph.csv", "source,target\n", "graph.csv"),
        ("factors.parquet", "nonsense", "factors.parquet"),
    ],
)
def test_a_malformed_run_is_named_and_nothing_is_written(runs, tmp_path, file, content, message):
    run = tmp_path / "run"
    shutil.copytree(runs["real"], run, ignore=shutil.ignore_patterns("figures", "report.html"))
    (run / file).unlink()
    if content is not None:
        (run / file).write_text(content)
    with pytest.raises(ReportError, match=message):
        write_report(run)
    assert not (run / "report.html").exists()
    assert not (run / "figures").exists()


@pytest.mark.drawn
@pytest.mark.skipif(BROWSER is None, reason="no headless browser here")
def test_a_real_browser_renders_the_page_without_errors_at_a_desk_and_on_a_phone(runs, tmp_path):
    """Every picture is drawn, nothing sticks out on the right, no link leads nowhere, nothing is complained of."""
    run = tmp_path / "run"
    shutil.copytree(runs["simulated"], run)
    (run / "effects.json").write_text(json.dumps(answer()))
    right = {"images": page_of(run).count("<img"), "broken": 0, "excess": 0, "anchors": 0, "narrow": True}
    for width, scheme, colour in ((1280, "light", "rgb(255, 255, 255)"), (390, "dark", "rgb(21, 25, 30)")):
        (seen,), complaints = look([run / "report.html"], width, tmp_path / scheme, scheme)
        assert seen.pop("headline") < 800
        assert seen == right | {"page": colour}
        assert "CONSOLE" not in complaints


def test_the_strongest_covariate_is_the_one_with_the_largest_coefficients():
    mechanism = {
        "covariates": ["a", "b", "c"],
        "location": [[0.1], [-0.9], [0.5]],
        "log_scale": [[0.2], [0.1], [-0.8]],
    }
    mechanisms = {"platform": mechanism, "preference": {"covariates": [], "location": [], "log_scale": []}}
    assert strongest(mechanisms, "platform_1", "location") == "b"
    assert strongest(mechanisms, "platform_1", "log_scale") == "c"
    assert strongest(mechanisms, "platform_1", "location", "log_scale") == "c"
    assert strongest(mechanisms, "preference_1", "location") == ""


def test_a_figure_that_only_the_page_reads_is_missed_before_anything_is_written(runs, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(runs["real"], run, ignore=shutil.ignore_patterns("figures", "report.html"))
    report = json.loads((run / "report.json").read_text())
    del report["identifiability"]["channels"]["platform"]["r2_own"]
    (run / "report.json").write_text(json.dumps(report))
    with pytest.raises(ReportError, match=r"report\.json.*r2_own"):
        write_report(run)
    assert not (run / "report.html").exists()
    assert not (run / "figures").exists()


# --- Effects -------------------------------------------------------------------------------------------------

ESTIMANDS = ("TE", "NDE", "NIE", "NIE_platform", "NIE_preference", "NIE_loop")
MEANS = {  # of the two outcomes: suppression and substitution
    "engagement": dict(zip(ESTIMANDS, (0.0686, 0.1435, -0.0749, -0.0649, -0.0048, -0.0052), strict=True)),
    "alignment": dict(zip(ESTIMANDS, (-0.0344, 0.0, -0.0344, -0.0339, -0.0003, -0.0002), strict=True)),
}
ONLY_OF_COVARIATES = ("placebo", "sensitivity", "reliability", "dose_response")


def around(mean: float, half: float = 0.005) -> dict[str, float]:
    return {"mean": mean, "lower": mean - half, "upper": mean + half}


def answer() -> dict:
    """What effects.json holds, of a shift of a covariate."""
    at = np.linspace(-3, 3, 60)
    density = {
        "at": at.tolist(),
        "before": np.exp(-(at**2)).tolist(),
        "after": np.exp(-((at - 1) ** 2)).tolist(),
    }
    return {
        "headline": "Raising feed_share by 1 & more brings 6.9 points.",
        "shift": ["feed_share=+1", "<new>=-0.5sd"], "kind": "interventional", "level": 0.9, "users": 4000,
        "outcomes": {
            outcome: {e: around(mean, 0.005 * (mean != 0)) for e, mean in means.items()}
            | {
                "CDE": around(0.1736),
                "factors": {f: around(0.01 * k) for k, f in enumerate(NAMES)},
                "paths": {"platform_1 -> preference_1": around(-0.0042), "platform_2 -> preference_2": around(0.03)},
                "suppression": float(outcome == "engagement"),
                "relative": around(means["TE"] / 0.4713),
                "proportion_mediated": None if outcome == "engagement" else around(0.9123),
                "levels": {"before": around(0.4713), "direct": around(0.614), "after": around(0.5391)},
            }
            for outcome, means in MEANS.items()
        },
        "suppression": 1.0, "substitution": 1.0, "substitution_undone": 0.0,
        "sentences": ["Suppression (probability 1.00): so & so.", "Substitution (probability 1.00): and so on."],
        "displacement": {f: around(0.25 * k - 0.5) | {"label": LABELS.get(f, "")} for k, f in enumerate(NAMES)},
        "categories": {
            name: {s: {"before": around(0.1), "after": around(0.1 + by), "change": around(by)}
                   for s in ("searched", "shown")}
            for name, by in (("cars", 0.01), ("<westerns>", -0.04), ("news", 0.0))
        },
        "course": {"period": [1, 2, 3]} | {
            outcome: {"TE": [around(by * means["TE"]) for by in (0.5, 1.0, 1.5)]} for outcome, means in MEANS.items()
        },
        "regression": {
            outcome: around(means["TE"] + 0.003, 0.01) | {"agrees": True} for outcome, means in MEANS.items()
        },
        "densities": {f: copy.deepcopy(density) for f in NAMES},
        "overlap": {"outside": 0.052, "beyond_range": 0.018, "no_level": 0.0, "unlike_others": 0.052,
                    "verdict": "supported: the shifted policy lies within what the data have seen"},
        "negative_controls": {
            f"{block} covariates on {channel} noise": {"r2": -0.009, "null": 0.002, "verdict": "passes"}
            for block, channel in (("exposure", "preference"), ("preference", "platform"))
        },
        "e_values": {e: {"ratio": 1.15, "e_value": 1.55, "e_value_of_interval": 1.52} for e in ESTIMANDS[:3]},
        "placebo": {
            "outcomes": {o: {e: around(0.0, 0.0067) for e in ESTIMANDS} for o in MEANS},
            "covers_zero": 9, "of": 9, "p": 0.62,
        },
        "noise": {
            "channels": {"noise": 0.0213, "prior": 0.0199, "p": 0.41, "verdict": "passes"},
            "tails": {"noise": 3.0817, "prior": 3.0521, "p": 0.37, "verdict": "passes"},
        },
        "sensitivity": {
            "rho": [-0.2, -0.1, 0.0, 0.1, 0.2],
            "TE": [around(0.07) for _ in range(5)],
            "NDE": [around(0.07 + n) for n in (0.003, 0.04, 0.075, 0.1, 0.12)],
            "NIE": [around(-n) for n in (0.003, 0.04, 0.075, 0.1, 0.12)],
            "first_rho_with_zero_in_NIE": 0.2,
            "first_rho_with_zero_in_NDE": None,
        },
        "reliability": {"reliability": [1.0, 0.9]} | {
            o: [around(means["TE"] / r) for r in (1.0, 0.9)] for o, means in MEANS.items()
        },
        "dose_response": {
            "size": [-1.0, 1.0, 2.0], "outside": [0.057, 0.052, 0.269],
            "engagement": [around(y) for y in (-0.0687, 0.0686, 0.1397)],
            "alignment": [around(y) for y in (0.0389, -0.0344, -0.0561)],
        },
    }  # fmt: skip


def asked(run: Path, folder: Path, effects: dict) -> Path:
    """A copy of the run, of which this has been asked."""
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("figures", "report.html"))
    (folder / "effects.json").write_text(json.dumps(effects, allow_nan=False))
    return folder


def text_of(page: str) -> str:
    """The words of the section on effects, without tags and line breaks."""
    section = re.search(r'<section id="effects">.*?</section>', page, re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", section[0])).split())


@pytest.fixture(scope="session")
def effects_page(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("effects")
    return page_of(asked(write_run(folder / "bare", truth=False, users=400), folder / "run", answer()))


def test_effects_are_shown_once_they_have_been_asked(runs, pages, effects_page):
    assert 'id="effects"' not in pages["real"]
    assert not list((runs["real"] / "figures").glob("effects*"))
    first = effects_page.index(html.escape(answer()["headline"]))
    assert first < effects_page.index("this answer") < effects_page.index('class="verdicts"')
    text = text_of(effects_page)
    assert "feed_share=+1, <new>=-0.5sd" in text
    assert "interventional: on a population with these users' covariates" in text
    for sentence in answer()["sentences"]:
        assert sentence in text
    assert "Engagement: from 47.1% to 53.9%, by +6.86 (6.36 to 7.36) percentage points." in text
    assert "covers zero 9 of 9" in text
    assert text.index("Suppression") < text.index("Check") < text.index("Estimand")


def test_one_sided_checks_are_drawn_and_worded_as_such(effects_page, tmp_path):
    """Nothing is said to pass beside a limit that it is past."""
    run = write_run(tmp_path / "bare", truth=False, users=400)
    report = json.loads((run / "report.json").read_text())
    checks = report["predictive"]["checks"]
    checks["search_mix"] |= {"distance": -5.6, "one_sided": True}
    (run / "report.json").write_text(json.dumps(report))
    said = answer()
    said["noise"]["channels"] |= {"noise": 0.044, "prior": 0.042}
    for control in said["negative_controls"].values():
        control["r2"] = 0.009
    page = page_of(asked(run, tmp_path / "run", said))
    rows = " ".join(re.sub(r"<[^>]*>", " ", page).split())
    assert re.search(r"search_mix [−.\d]+ −5.6 up to 3 ", rows)
    assert re.search(r"exposure_mix [−.\d]+ [−.\d]+ −3 to 3 ", rows)
    bands = [band for band in run_figures.predictive_checks(checks).axes[0].patches]
    assert [band.get_x() < -3 for band in bands] == [c["one_sided"] for c in checks.values()]
    text = text_of(page)
    assert "R² 0.009, which fails above 0.020: passes" in text
    assert "0.044, by chance 0.042 (p 0.41), and fails where it is more than 0.050 past chance and p" in text
    assert "only more than 1.15 speaks against it" in text


def test_the_table_of_effects_has_every_estimand(effects_page):
    text = text_of(effects_page)
    for row in (
        "Total (TE) +6.86 (6.36 to 7.36) −3.44 (−3.94 to −2.94)",
        "Direct (NDE) +14.35 (13.85 to 14.85) 0.00 (0.00 to 0.00)",
        "Through the factors (NIE) −7.49 (−7.99 to −6.99)",
        "NIE by platform −6.49",
        "NIE by preference −0.48",
        "NIE by the loop −0.52",
        "Controlled direct (CDE) +17.36",
        "Level before 47.13 (46.63 to 47.63)",
        "Level after 53.91",
        "Through platform 2 alone +1.00",
        "Through platform 1 alone (feeds of the <night>) 0.00",
        "<westerns> 10.0 6.0 (5.5 to 6.5) −4.0 (−4.5 to −3.5)",
        "platform 1 → preference 1 −0.42",
        "E-value of NDE 1.55 (of its interval: 1.52) –",
        "opposite signs (probability 1.00) 0.91 (0.91 to 0.92)",
    ):
        assert row in text


def test_words_beside_the_figures_of_effects_say_their_numbers(effects_page):
    alts = [html.unescape(alt) for alt in re.findall(r'<img alt="([^"]*)"', effects_page)]
    for words in (
        "engagement: total (TE) +6.86 (6.36 to 7.36), direct (NDE) +14.35",
        "alignment: total (TE) −3.44",
        "preference 3: westerns against old cars by 0.50 (0.49 to 0.51) sd",
        "that move most. <westerns>: searched 10.0% to 6.0% (5.5 to 6.5), shown 10.0%",
        "engagement: −6.87 (−7.37 to −6.37) at −1, +6.86",
        "Extrapolates at: 2.",
        "First undone at: −0.2.",
    ):
        assert any(words in alt for alt in alts), words


@pytest.mark.drawn
def test_effects_of_a_change_of_factors_lack_what_is_asked_of_covariates_only(runs, tmp_path):
    effects = {key: value for key, value in answer().items() if key not in ONLY_OF_COVARIATES}
    effects |= {"shift": ["platform_1:=2"], "kind": "counterfactual"}
    for outcome in effects["outcomes"].values():
        del outcome["factors"]["platform_1"]
        outcome["paths"] = {}
    run = asked(runs["real"], tmp_path / "run", effects)
    text = text_of(page_of(run))
    assert "counterfactual: on these very users" in text
    assert "The change sets factors." in text
    assert "Through platform 2 alone" in text
    assert "Through platform 1 alone" not in text
    assert not {"Placebo", "Correlation rho"} & set(re.findall(r"Placebo|Correlation rho", text))
    drawn = {p.stem for p in (run / "figures").glob("effects*.svg")}
    assert drawn == {"effects_forest", "effects_categories", "effects_course", "effects_displacement"}


def test_a_policy_of_one_s_own_and_its_outcome_are_shown_in_their_own_terms(runs, tmp_path):
    effects = answer() | {"shift": "feed_of_the_<night>"}
    reach = copy.deepcopy(effects["outcomes"]["engagement"]) | {"TE": around(1.5, 0.25)}
    effects["outcomes"]["reach.per_day"] = reach
    effects["reliability"]["reach.per_day"] = effects["reliability"]["engagement"]
    effects["course"]["reach.per_day"] = effects["course"]["engagement"]
    effects["dose_response"]["reach.per_day"] = effects["dose_response"]["engagement"]
    text = text_of(page_of(asked(runs["real"], tmp_path / "run", effects)))
    assert "the policy feed_of_the_<night> ." in text
    assert "reach.per day: from 0.4713 to 0.5391, by +1.5000 (1.2500 to 1.7500)." in text
    panels = effects_forest(effects).axes
    assert [ax.get_title() for ax in panels if ax.axison] == ["engagement", "alignment", "reach.per day"]
    assert "own units" in panels[2].get_xlabel()
    assert "percentage points" in panels[0].get_xlabel()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("kind", None, "no 'kind'"),
        ("outcomes.engagement.TE.lower", None, r"no 'outcomes\.engagement\.TE\.lower'"),
        (
            "outcomes.alignment.factors.platform_2.mean",
            "1",
            r"'outcomes\.alignment\.factors\.platform_2\.mean' must",
        ),
        (
            "outcomes.alignment.proportion_mediated.mean",
            None,
            r"no 'outcomes\.alignment\.proportion_mediated\.mean'",
        ),
        ("densities.preference_3", None, r"no 'densities\.preference_3"),
        ("displacement.preference_3", None, "'displacement' is of other factors"),
        ("placebo.covers_zero", None, r"no 'placebo\.covers_zero'"),
        ("sensitivity.NIE.1.upper", None, r"no 'sensitivity\.NIE\.1\.upper'"),
        ("course.alignment.TE.2", None, r"no 'course\.alignment\.TE\.2\.mean'"),
        ("dose_response.alignment", None, r"no 'dose_response\.alignment"),
        ("sensitivity.first_rho_with_zero_in_NIE", None, "no 'sensitivity.first_rho"),
    ],
)
def test_a_malformed_answer_is_named_and_nothing_is_written(runs, tmp_path, key, value, message):
    effects = answer()
    *parents, last = key.split(".")
    inside = effects
    for part in parents:
        inside = inside[int(part) if isinstance(inside, list) else part]
    del inside[int(last) if isinstance(inside, list) else last]
    if value is not None:
        inside[last] = value
    run = asked(runs["real"], tmp_path / "run", effects)
    with pytest.raises(ReportError, match=rf"effects\.json: .*{message}.*; ask for the effects again"):
        write_report(run)
    assert not (run / "report.html").exists()
    assert not (run / "figures").exists()


def by_segment() -> dict:
    """What an answer holds of two segments."""
    parts = {"suppression": 0.1, "substitution": 0.9, "substitution_undone": 0.0}
    effects = {o: {e: around(0.02) for e in ("before", "TE", "NDE", "NIE")} for o in MEANS}
    of = {
        "free <plan>": {"users": 300, "outcomes": effects} | parts,
        "premium": {"users": 100, "outcomes": effects} | parts,
    }
    return {"by": "plan", "correction": "Bonferroni", "level_of_each": 0.95, "segments": of}


@pytest.mark.drawn
def test_segments_and_policies_are_shown_where_they_were_asked(runs, tmp_path):
    run = asked(runs["real"], tmp_path / "run", answer() | {"by_segment": by_segment()})
    (run / "answers").mkdir()
    for name in ("A", "<B>"):
        (run / "answers" / f"{name[:1]}.json").write_text(json.dumps(answer() | {"policy": name}))
    page = page_of(run)
    text = " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())
    for words in (
        "free <plan> 300 2.00 (1.50 to 2.50) +2.00 (1.50 to 2.50)",
        "those of all 2 segments hold",
        "<B> +6.86 (6.36 to 7.36) −3.44 (−3.94 to −2.94) 1.00 0.00",
        "2 policies side by side",
    ):
        assert words in text
    assert json.loads((run / "report.json").read_text())["policies"]["A"]["headline"] == answer()["headline"]
    drawn = {p.stem for p in (run / "figures").glob("*.svg")}
    assert {"policies", "effects_segments"} <= drawn
    (run / "answers" / "A.json").write_text(json.dumps({"policy": "A"}))
    with pytest.raises(ReportError, match=r"A\.json: .*; delete the file"):
        write_report(run)


def test_the_plane_of_policies_has_each_with_its_intervals():
    other = answer()
    other["outcomes"]["engagement"]["TE"] = around(-0.05, 0.01)
    (ax,) = policies_plane({"A": answer(), "B": other}).axes
    names = [text.get_text() for text in ax.texts]
    assert names[:2] == ["A", "B"]
    across, up = (np.concatenate([s for s in lines.get_segments()]) for lines in ax.collections)
    assert across[:, 0] == pytest.approx([6.36, 7.36, -6.0, -4.0])
    assert up[:, 1] == pytest.approx([-3.94, -2.94, -3.94, -2.94])


def test_an_answer_that_cannot_be_read_is_named(runs, tmp_path):
    run = asked(runs["real"], tmp_path / "run", {})
    (run / "effects.json").write_text("{")
    with pytest.raises(ReportError, match=r"effects\.json: cannot be read .*ask for the effects again"):
        write_report(run)


def lines_of(ax, hue: str) -> list[tuple[float, float]]:
    """Ends of the horizontal lines of this colour, from top to bottom."""
    found = [
        (segment[0, 1], *segment[:, 0])
        for lines in ax.collections
        if to_hex(lines.get_colors()[0]) == hue.lower()
        for segment in lines.get_segments()
    ]
    return [(low, high) for _, low, high in sorted(found)]


def test_the_forest_draws_each_interval_and_the_placebo_under_it():
    effects = answer()
    engagement, alignment = effects_forest(effects).axes
    assert lines_of(engagement, INK) == [pytest.approx((6.36, 7.36))]
    assert lines_of(engagement, HUES["preference"])[0] == pytest.approx((-0.98, 0.02))
    assert lines_of(alignment, HUES["platform"])[0] == pytest.approx((-3.89, -2.89))
    assert lines_of(engagement, RULE) == [pytest.approx((-0.67, 0.67))] * len(ESTIMANDS)
    del effects["placebo"]
    assert lines_of(effects_forest(effects).axes[0], RULE) == []


def test_with_one_period_nothing_is_said_of_the_loop(runs, tmp_path):
    effects = answer()
    assert "NIE by the loop" in text_of(page_of(asked(runs["real"], tmp_path / "periods", effects)))
    effects["course"] = {"period": [1]} | {
        outcome: {world: of[:1] for world, of in effects["course"][outcome].items()} for outcome in MEANS
    }
    page = page_of(asked(runs["real"], tmp_path / "one", effects))
    assert "NIE by preference" in text_of(page)
    assert "NIE by the loop" not in page
    rows = [text.get_text() for text in effects_forest(effects).axes[0].get_yticklabels()]
    assert "NIE by preference" in rows
    assert "NIE by the loop" not in rows


def test_the_forest_keeps_to_the_strongest_paths():
    effects = answer()
    pairs = itertools.product(range(1, 6), range(1, 6))
    paths = {f"platform_{a} -> preference_{b}": around(0.001 * (5 * a + b)) for a, b in pairs}
    for outcome in effects["outcomes"].values():
        outcome["paths"] = paths
    rows = [text.get_text() for text in effects_forest(effects).axes[0].get_yticklabels()]
    shown = [row for row in rows if "→" in row]
    assert len(shown) == SHOWN_PATHS
    assert shown[0] == "platform 5 → preference 5"
    assert "platform 1 → preference 1" not in shown


def test_doses_beyond_the_data_are_hollow_and_no_shift_does_nothing():
    for ax in effects_dose(answer()).axes:
        dots = {line.get_markerfacecolor(): line.get_xdata() for line in ax.lines if line.get_marker() == "o"}
        assert list(dots["white"]) == [2.0]
        assert list(dots[INK]) == [-1.0, 0.0, 1.0]
        middle = next(line for line in ax.lines if line.get_marker() == "o")
        assert middle.get_ydata()[1] == 0
        assert [line.get_linestyle() for line in ax.lines if len(line.get_xdata()) == 2][-1] == "--"


@pytest.mark.parametrize(
    ("first", "nie", "marked"),
    [
        (0.2, (-0.003, -0.04, -0.075, -0.1, -0.12), ["−0.2"]),
        (0.2, (0.03, -0.04, -0.075, -0.1, -0.12), ["−0.2"]),  # beyond zero: another sign
        (0.1, (0.01, 0.001, -0.03, -0.001, 0.01), ["−0.1", "0.1"]),
        (None, (-0.03, -0.04, -0.075, -0.1, -0.12), []),
    ],
)
def test_the_correlation_that_undoes_nie_is_marked(first, nie, marked):
    effects = answer()
    effects["sensitivity"] |= {"NIE": [around(y) for y in nie], "first_rho_with_zero_in_NIE": first}
    (ax,) = effects_sensitivity(effects).axes
    assert [re.search("rho = (.*)", text.get_text())[1] for text in ax.texts] == marked


def test_a_factor_set_to_one_value_does_not_flatten_what_was_before():
    effects = answer()
    effects["densities"]["platform_1"]["after"] = [0.0] * 30 + [50.0] + [0.0] * 29
    spike, other = effects_displacement(effects).axes[:2]
    assert spike.get_ylim()[1] < 3
    assert other.get_ylim()[1] == pytest.approx(1.05, rel=0.02)
    assert other.get_title() == "platform 2\n−0.25 sd (−0.26 to −0.24)"


def rho_of(nie: float | None, nde: float | None = None) -> dict:
    return {"rho": [0.3], "first_rho_with_zero_in_NIE": nie, "first_rho_with_zero_in_NDE": nde}


@pytest.mark.parametrize(
    ("check", "changes", "level"),
    [
        ("overlap", {"overlap": {"verdict": "supported: as it is"}}, "good"),
        ("overlap", {"overlap": {"verdict": "in part: for 23% of the users ..."}}, "care"),
        ("overlap", {"overlap": {"verdict": "not supported: 80% of the users ..."}}, "no"),
        ("placebo", {"placebo": {"covers_zero": 4, "of": 9, "p": 0.05}}, "good"),  # all nine hang together
        ("placebo", {"placebo": {"covers_zero": 8, "of": 9, "p": 0.04}}, "care"),
        ("placebo", {"placebo": {"covers_zero": 4, "of": 9, "p": 0.04}}, "no"),
        ("noise", {"noise": {"channels": {"verdict": "passes"}, "tails": {"verdict": "fails: ..."}}}, "care"),
        (
            "negative_controls",
            {"negative_controls": {"a": {"verdict": "passes"}, "b": {"verdict": "fails: ..."}}},
            "no",
        ),
        ("rho", {"sensitivity": rho_of(None)}, "good"),
        ("rho", {"sensitivity": rho_of(None, 0.1)}, "care"),
        ("e_values", {"e_values": {"TE": {"e_value_of_interval": 1.05}}}, "care"),
        ("e_values", {"e_values": {"TE": {"e_value_of_interval": 1.5}}}, ""),
        ("rho", {"sensitivity": rho_of(0.1)}, "care"),
        ("rho", {"sensitivity": rho_of(0.2)}, ""),
        ("rho", {"sensitivity": rho_of(0.0)}, ""),
    ],
)
def test_whether_to_believe_an_answer_follows_its_checks(check, changes, level):
    believed = {"platform": ["platform is identified up to order, sign and scale of each factor: ..."]}
    checks = judge(answer() | changes, believed, {}, {})
    assert checks[check][0] == level
    assert overall(checks)[0] == (level or "good")  # all else speaks for it


def test_a_model_that_is_too_sure_of_its_users_calls_for_care():
    believed = {"platform": ["platform is identified up to order, sign and scale of each factor: ..."]}
    ratios = {"search": 1.02, "engagement": 1.61}
    assert judge(answer(), believed, {}, ratios)["information"] == ("care", "too sure: engagement 1.61")
    assert judge(answer(), believed, {}, {"search": 1.1})["information"][0] == "good"
    moved = {
        "last year": {"verdict": "fails: something else goes with the policy"},
        "other": {"verdict": "passes"},
    }
    assert judge(answer() | {"controls": moved}, believed, {}, {})["controls"] == ("no", "moved: last year")


def test_an_answer_is_no_better_than_the_factors():
    doubtful = {"preference": ["preference is identified only up to rotation: ..."]}
    assert judge(answer(), doubtful, {}, {})["factors"] == ("care", "doubt on preference")


def test_a_back_test_that_failed_speaks_against_the_answer():
    believed = {"platform": ["platform is identified: ..."]}
    failed = {"level": 0.9, "coverage": {"all": {"inside": 3, "as_before": 2, "of": 20, "p": 0.005}}}
    checks = judge(answer(), believed, {}, {}, failed)
    assert checks["backtest"] == ("no", "failed: 3 of 20 figures inside")
    assert overall(checks)[0] == "no"
    passed = {"level": 0.9, "coverage": {"all": failed["coverage"]["all"] | {"inside": 18, "p": 0.6}}}
    assert judge(answer(), believed, {}, {}, passed)["backtest"][0] == "good"
    unmoved = {"level": 0.9, "coverage": {"all": passed["coverage"]["all"] | {"as_before": 19}}}
    assert judge(answer(), believed, {}, {}, unmoved)["backtest"][0] == ""
    report = {"identifiability": {"verdict": believed}, "predictive": {"checks": {}}, "information": {}}
    assert "back-test" in believe(answer(), report | {"validation": failed})[1]


def test_counterfactual_answers_need_single_users():
    believed = {"platform": ["platform is identified: ..."]}
    far = {"median": 0.9, "unreliable": 0.8}
    own = answer() | {"kind": "counterfactual"}
    assert judge(own, believed, {}, {}, None, far)["single_users"][0] == "care"
    assert "single_users" not in judge(answer(), believed, {}, {}, None, far)
    report = {"predictive": {"checks": {}}, "pareto_k": far}
    assert "use no user's factors by themselves" in doubts(report)[0]
    assert doubts(report | {"pareto_k": {"median": 0.2, "unreliable": 0.01}}) == []


def test_a_regression_that_does_not_know_alignment_does_not_agree():
    known = answer()["regression"]
    level, why = judge(answer() | {"regression": {"engagement": known["engagement"]}}, {}, {}, {})[
        "regression"
    ]
    assert (level, why) == ("care", "too few users tell of alignment")


def test_levels_are_said_to_the_decimal_and_each_where_they_differ(runs, tmp_path):
    effects = answer() | {"level": 0.995}
    text = text_of(page_of(asked(runs["real"], tmp_path / "run", effects)))
    assert "99.5% intervals" in text
    assert "100%" not in effects_text(effects, runs["real"]).splitlines()[2]
    two = Answer({"A": answer(), "B": effects})
    assert repr(two).startswith("Total effects with 90% (A), 99.5% (B) intervals")


def test_why_an_answer_is_supported_in_part_stands_in_the_page(runs, tmp_path):
    verdict = "in part: the answer hangs on the few users who make nearly all of the variance of fee (98%)"
    effects = answer() | {"overlap": answer()["overlap"] | {"verdict": verdict, "outside": 0.0}}
    assert "hangs on the few users" in text_of(page_of(asked(runs["real"], tmp_path / "run", effects)))


def test_a_back_test_counts_for_all_kept_answers_at_once(runs, tmp_path):
    folder = asked(runs["real"], tmp_path / "run", answer())
    assert "validation" not in found_of(folder)
    (folder / "validation.json").write_text('{"coverage": {}}')
    assert found_of(folder)["validation"] == {"coverage": {}}
