"""Claims about the report. The runs are made with numpy: no model is fitted, no torch needed."""

from __future__ import annotations

import html
import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import FancyArrowPatch

from pyro_hmvcrl import plots
from pyro_hmvcrl.identifiability import ChannelEvidence, identifiability
from pyro_hmvcrl.report import ReportError, trust, write_report

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
        "restarts": [{"restart": r, "held_out_bound": b, "selected": r == 2} for r, b in enumerate(bounds)],
        "mechanisms": mechanisms,
        "held_out_bound": {"mean": -95.97, "standard_error": 0.31},
        "graph": graph.to_dict("records"),
        "factor_categories": {
            f: {w: [str(c) for c in rng.choice(24, 5, replace=False)] for w in ("raised", "lowered")}
            for f in NAMES
        },
    }
    (folder / "report.json").write_text(json.dumps(report, allow_nan=False))
    config = {
        "version": "0.1.0", "name": "simulated <world>", "platform_factors": 2, "preference_factors": 3,
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


@pytest.mark.parametrize("name", ["simulated", "real"])
def test_the_page_stands_alone_and_says_the_verdict_first(runs, name):
    page = page_of(runs[name])
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
def test_every_figure_has_words_for_those_who_do_not_see_it(runs, name):
    images = re.findall(r"<img\b[^>]*>", page_of(runs[name]))
    assert len(images) >= 5
    assert all(len(re.search(r'alt="([^"]*)"', image)[1]) > 30 for image in images)


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


def test_figures_are_written_as_png_and_svg(runs):
    write_report(runs["simulated"])
    names = {p.name for p in (runs["simulated"] / "figures").iterdir()}
    figures = {"overview", "factors", "graph", "modulation", "coefficients", "training"}
    assert names == {f"{figure}.{kind}" for figure in figures for kind in ("png", "svg")}


def test_the_oracle_is_shown_where_the_truth_is_known_and_only_there(runs):
    assert "Oracle ceiling" in page_of(runs["simulated"])
    assert "Oracle ceiling" not in page_of(runs["real"])


def test_the_graph_shows_the_weights_of_its_file(runs):
    graph = pd.read_csv(runs["simulated"] / "graph.csv")
    figure = plots.graph(graph, NAMES)
    written = {text.get_text() for ax in figure.axes for text in ax.texts}
    for weight in graph.loc[graph["probability"] > 0.5, "weight"]:
        assert f"{weight:+.2f}".replace("-", "−") in written
    assert {"platform 1", "preference 3"} <= written


def test_every_edge_is_drawn_and_unlikely_ones_are_dashed_and_faint(runs):
    graph = pd.read_csv(runs["simulated"] / "graph.csv")
    (ax,) = plots.graph(graph, NAMES).axes
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
    figure = plots.graph(graph.assign(weight=rng.normal(0, 0.5, len(pairs))), factors)
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


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no headless browser here")
def test_a_real_browser_renders_the_page(runs, tmp_path):
    page, picture = write_report(runs["simulated"]), tmp_path / "page.png"
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-sync",
    ]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1000,1400", f"--screenshot={picture}"]
    subprocess.run(["chromium", *flags, page.as_uri()], check=True, capture_output=True, timeout=90)
    assert picture.stat().st_size > 30_000


def test_the_strongest_covariate_is_the_one_with_the_largest_coefficients():
    mechanism = {
        "covariates": ["a", "b", "c"],
        "location": [[0.1], [-0.9], [0.5]],
        "log_scale": [[0.2], [0.1], [-0.8]],
    }
    mechanisms = {"platform": mechanism, "preference": {"covariates": [], "location": [], "log_scale": []}}
    assert plots.strongest(mechanisms, "platform_1", "location") == "b"
    assert plots.strongest(mechanisms, "platform_1", "log_scale") == "c"
    assert plots.strongest(mechanisms, "platform_1", "location", "log_scale") == "c"
    assert plots.strongest(mechanisms, "preference_1", "location") == ""


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
