"""Claims about the answer to a causal question: the contract, the refusals, the command."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from pyro_hmvcrl.cli import app
from pyro_hmvcrl.inference.checkpoints import load_tensors, save_tensors
from pyro_hmvcrl.inference.settings import Settings
from pyro_hmvcrl.queries.answer import effects
from pyro_hmvcrl.queries.averages import average_effects
from pyro_hmvcrl.queries.frontier import frontier
from pyro_hmvcrl.queries.interventions import InterventionError, add, parse_policy, set_to
from pyro_hmvcrl.queries.kept import kept
from pyro_hmvcrl.queries.mediation import OUTCOMES
from pyro_hmvcrl.queries.overlap import EXTRAPOLATES
from pyro_hmvcrl.queries.population import Population
from pyro_hmvcrl.queries.profile import profile
from pyro_hmvcrl.report.answer_figures import frontier_plane
from pyro_hmvcrl.run.files import RunError
from pyro_hmvcrl.run.fitting import fit_folder
from pyro_hmvcrl.run.labels import labels_of
from pyro_hmvcrl.synthetic.design import Design
from pyro_hmvcrl.synthetic.folder import write_simulation
from pyro_hmvcrl.synthetic.simulation import simulate

QUICK = Settings(2, 3, restarts=1, steps=40, encoder_steps=10, batch_size=64, periods=3)
ESTIMANDS = ("TE", "NDE", "NIE", "NIE_platform", "NIE_preference")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    base = tmp_path_factory.mktemp("effects")
    write_simulation(simulate(Design(users=150, categories=6), 0), base / "data", 0)
    fit_folder(base / "data", base / "run", QUICK)
    file = base / "run" / "posterior.safetensors"
    posterior, about = load_tensors(file)  # a few draws do for what is claimed here
    few = {n: t[:6] if n.startswith(("draws/", "placebo/")) else t for n, t in posterior.items()}
    save_tensors(file, few, about)
    return base / "run"


def command(*words):
    return CliRunner().invoke(app, [str(w) for w in words])


def test_controls_of_one_s_own_are_numbers_of_the_run_s_users(run):
    users = pd.read_parquet(run / "covariates.parquet")
    own = pd.DataFrame({"before": users["exposure_1"] + np.arange(len(users))}).set_index(users["user_id"])
    found = effects(run, add("exposure_1", 0.5), controls=own[::-1])
    assert found["controls"]["before"]["lower"] < found["controls"]["before"]["upper"]
    for wrong in (own.assign(before="much"), own.assign(before=1.0), own[:5], own.reset_index(drop=True)):
        with pytest.raises(
            InterventionError, match="control before: give numbers that vary, by user_id, for 20"
        ):
            effects(run, add("exposure_1", 0.5), controls=wrong)


def test_the_command_writes_what_the_design_promises(run, tmp_path):
    out = tmp_path / "effects.json"
    said = command("effects", run, "--shift", "exposure_1=+0.5", "--shift", "exposure_2=-0.2sd", "--out", out)
    assert said.exit_code == 0, said.output
    answer = json.loads(out.read_text())
    assert answer["shift"] == ["exposure_1=+0.5", "exposure_2=-0.2sd"]
    intervals = [answer["outcomes"][o][name] for o in ("engagement", "alignment") for name in ESTIMANDS]
    intervals += list(answer["displacement"].values())
    assert set(answer["displacement"]) == {f"platform_{k}" for k in (1, 2)} | {
        f"preference_{k}" for k in (1, 2, 3)
    }
    assert all(i["lower"] <= i["mean"] <= i["upper"] for i in intervals)
    assert answer["level"] == 0.9
    assert 0 <= answer["suppression"] <= 1
    assert 0 <= answer["substitution"] <= 1
    assert 0 <= answer["overlap"]["outside"] <= 1
    assert "supported" in answer["overlap"]["verdict"]
    assert {"placebo", "negative_controls", "noise", "sensitivity", "e_values", "dose_response"} <= set(
        answer
    )
    assert answer["headline"].startswith(
        "Raising exposure_1 by 0.5 and lowering exposure_2 by 0.2 standard dev"
    )
    assert said.stdout.strip().startswith(answer["headline"])
    assert said.stdout.index("his answer") < said.stdout.index("engagement TE")  # first whether to believe it
    assert 0 <= answer["substitution_undone"] <= 1
    labels = [factor["label"] for factor in answer["displacement"].values()]
    assert labels == list(labels_of(run).values())
    for outcome in answer["outcomes"].values():
        before = outcome["levels"]["before"]["mean"]
        wide = (
            outcome["relative"]["upper"] - outcome["relative"]["lower"]
        )  # of a mean of ratios, and the ratio of means
        assert outcome["relative"]["mean"] == pytest.approx(
            outcome["TE"]["mean"] / before, rel=0.1, abs=0.05 * wide
        )
    assert len(answer["categories"]) == 6
    assert json.loads((run / "effects.json").read_text()) == answer


def test_several_policies_are_told_side_by_side_and_kept(run, tmp_path):
    policies = {"A": "exposure_1=-0.5", "B": "exposure_1=*1.1, exposure_2=+0.1sd"}
    asked = [word for name, shifts in policies.items() for word in ("--policy", f"{name}: {shifts}")]
    said = command("effects", run, *asked, "--by", "exposure_3", "--out", tmp_path / "x.json")
    assert said.exit_code == 0, said.output
    answers = json.loads((tmp_path / "x.json").read_text())
    assert {name: ", ".join(of["shift"]) for name, of in answers.items()} == policies
    assert answers == {name: of for name, of in kept(run).items() if name in policies}
    assert json.loads((run / "effects.json").read_text()) == answers["B"]
    assert said.stdout.index(answers["B"]["headline"]) < said.stdout.index("P(substitution)")
    by = answers["A"]["by_segment"]
    assert sum(of["users"] for of in by["segments"].values()) == 150
    assert len(by["segments"]) == 3
    assert "Policies side by side" in (run / "report.html").read_text()
    for words, message in (
        (["--policy", "A: exposure_1=-0.4"], "has another answer (A: exposure_1=-0.5, interventional)"),
        (
            ["--policy", "C: exposure_1=+9", "--policy", "D: exposure_1=+0.1"],
            "policy C: the change is not supp",
        ),
        (["--shift", "exposure_1=+0.1", "--by", "colour"], "no covariate colour"),
        ([], "no policy is given"),
    ):
        said = command("effects", run, *words)
        assert said.exit_code == 1
        assert message in said.stderr
    assert "D" not in kept(run)


def test_a_profile_is_the_answer_user_by_user(run, tmp_path):
    """Its averages are the levels of counterfactual effects, under the same parameters."""
    table, population = profile(run, draws=40), Population.of(run)
    platform = {f"platform_{k}": float(population.factor_means[f"platform_{k}"].mean()) for k in (1, 2)}
    posterior = population.run.posterior
    mean = replace(posterior, draws={name: value[None] for name, value in posterior.mean.items()})
    found = average_effects(
        population.run.guide, mean, population.users, platform, counterfactual=True, share=3.0
    )
    levels = {world: float(draws[0]) for world, draws in found.levels["alignment"].items()}
    assert table["alignment"].mean() == pytest.approx(levels["before"], abs=0.003)
    assert table["reference"].mean() == pytest.approx(levels["after"], abs=0.003)
    assert table["gain"].to_numpy() == pytest.approx(table["reference"] - table["alignment"])
    assert table["alignment"].std() > 0.01
    assert (table["user_id"] == population.covariates["user_id"]).all()
    assert set(table["looks_for"]) <= set(population.run.categories)
    assert (table["lacks"] != table["oversupplied"]).all()
    other = profile(run, {"platform_1": 3.0, "platform_2": 0.0}, draws=4)
    assert other["reference"].mean() != pytest.approx(table["reference"].mean(), abs=1e-3)
    with pytest.raises(InterventionError, match="reference must be of platform_1, platform_2"):
        profile(run, {"platform_1": 3.0})


def test_the_command_profile_writes_a_row_a_user(run, tmp_path):
    said = command("profile", run, "--out", tmp_path / "who.csv")
    assert said.exit_code == 0, said.output
    assert len(pd.read_csv(tmp_path / "who.csv")) == 150
    assert "Most often lacking" in said.output
    refused = command("profile", run, "--out", tmp_path / "who.xls")
    assert refused.stderr.endswith("who.xls: the name must end in .parquet or .csv\n")


def test_the_frontier_has_the_policies_that_none_beats(run, tmp_path):
    table = frontier(run, {"exposure_1": (-0.5, 0.5), "exposure_2": (0.0, 0.3)}, points=16)
    assert table["outside"].max() <= EXTRAPOLATES
    assert table["engagement"].is_monotonic_increasing
    none = table[table["policy"] == ""]
    assert len(none) == 1
    assert none[["engagement", "alignment"]].to_numpy() == pytest.approx(0)
    one = table[table["best"] & (table["policy"] != "")].iloc[0]
    assert one["exposure_1"] == pytest.approx(parse_policy(one["policy"])[1][0].amount, rel=0.01)
    told = effects(run, parse_policy(one["policy"])[1])["outcomes"]["engagement"]["TE"]
    assert one["engagement"] == pytest.approx(told["mean"], abs=0.01)
    assert one["engagement_lower"] <= one["engagement"] <= one["engagement_upper"]
    said = command(
        "frontier", run, "--between", "exposure_1=-0.2..0.2", "--points", 4, "--out", tmp_path / "f.csv"
    )
    assert said.exit_code == 0, said.output
    assert list(pd.read_csv(tmp_path / "f.csv").columns[:3]) == ["policy", "exposure_1", "outside"]
    assert (tmp_path / "f.png").stat().st_size > 10_000
    figure = frontier_plane(table, 0.9)
    tried, _, best = figure.axes[0].get_lines()[:3]
    assert len(tried.get_xdata()) + len(best.get_xdata()) == len(table)
    assert best.get_xdata() == pytest.approx(100 * table.loc[table["best"], "engagement"])
    for words, message in (
        (["exposure_1=1..0"], "no range of shifts"),
        (["taste_1=0..1"], "no exposure covariate taste_1"),
        (["exposure_1"], "write COLUMN=LOW..HIGH"),
        (["exposure_1=50..60"], "the data support no shift"),
    ):
        refused = command("frontier", run, "--between", *words, "--points", 4, "--out", tmp_path / "x.csv")
        assert message in refused.stderr


def test_units_are_the_column_s_own(run):
    covariates = pd.read_parquet(run / "covariates.parquet")
    sd = float(covariates["exposure_3"].std(ddof=0))
    own, in_sd = (
        effects(run, [shift]) for shift in (add("exposure_3", sd), add("exposure_3", 1.0, in_sd=True))
    )
    assert own["outcomes"]["engagement"]["TE"] == pytest.approx(
        in_sd["outcomes"]["engagement"]["TE"], abs=1e-6
    )


def test_a_policy_may_be_any_function_and_an_outcome_too(run):
    def feed_of_the_night(covariates, rng):
        return covariates.assign(exposure_1=rng.permutation(covariates["exposure_1"]))

    outcomes = OUTCOMES | {"reach": lambda world: world["platform_1"].tanh()}
    answer = effects(run, feed_of_the_night, outcomes=outcomes)
    assert answer["shift"] == ["feed_of_the_night"]
    assert set(answer["outcomes"]) == {"engagement", "alignment", "reach"}
    assert "reach" in answer["dose_response"]


def test_an_outcome_that_is_not_finite_is_named(run):
    outcomes = OUTCOMES | {"log share": lambda world: -(world["platform_1"].abs() / 0)}
    with pytest.raises(ValueError, match="outcome 'log share' is not finite for every user"):
        effects(run, [add("exposure_1", 0.5)], outcomes=outcomes)


def test_a_factor_can_be_intervened_on(run):
    answer = effects(run, [add("platform_1", 1.0, in_sd=True)])
    assert answer["displacement"]["platform_1"]["lower"] > 0.1  # 1 where the model is well fitted
    assert "placebo" not in answer


def test_a_whole_channel_can_be_intervened_on(run):
    answer = effects(run, [add("preference", -0.5, in_sd=True)])
    assert answer["shift"] == [f"preference_{k}=-0.5sd" for k in (1, 2, 3)]
    assert all(answer["displacement"][f"preference_{k}"]["upper"] < 0 for k in (1, 2, 3))


@pytest.mark.parametrize("column", ["platform_1", "exposure_1"])
def test_shifts_of_one_column_are_done_one_after_the_other(run, column):
    """As one: of a factor, of its channel and of itself, and of a covariate."""
    population = Population.of(run)
    sd = population.sd_of(column) if column == "platform_1" else population.covariates[column].std(ddof=0)
    for several, one in (
        ([add(column, 0.5, in_sd=True), add(column, -0.2, in_sd=True)], add(column, 0.3, in_sd=True)),
        ([set_to(column, 0.1), add(column, 0.2, in_sd=True)], set_to(column, 0.1 + 0.2 * sd)),
        ([add(column, 1.0), set_to(column, 0.1)], set_to(column, 0.1)),
    ):
        found, expected = (effects(run, shifts, extrapolate=True) for shifts in (several, [one]))
        assert found["shift"] == [str(shift) for shift in several]
        for part in ("mean", "lower", "upper"):
            assert found["outcomes"]["engagement"]["TE"][part] == pytest.approx(
                expected["outcomes"]["engagement"]["TE"][part], abs=1e-5
            )
        assert found["overlap"]["outside"] == pytest.approx(expected["overlap"]["outside"], abs=0.02)


def test_a_channel_s_shift_and_one_of_its_factors_add_up(run):
    both = effects(run, [add("platform", 0.5, in_sd=True), add("platform_1", -0.5, in_sd=True)])
    other = effects(run, [add("platform_1", 0.0), add("platform_2", 0.5, in_sd=True)])
    for outcome in ("engagement", "alignment"):
        te = [answer["outcomes"][outcome]["TE"]["mean"] for answer in (both, other)]
        assert te[0] == pytest.approx(te[1], abs=1e-5)


def test_counterfactual_effects_say_so(run):
    answer = effects(run, [add("exposure_1", 0.5)], counterfactual=True)
    assert answer["kind"] == "counterfactual"
    other = effects(run, [add("exposure_1", 0.5)])
    assert other["kind"] == "interventional"
    assert answer["outcomes"]["engagement"]["TE"] != other["outcomes"]["engagement"]["TE"]


def test_a_shift_to_where_no_data_are_is_refused_by_default(run):
    with pytest.raises(InterventionError, match=r"not supported: 100% of the users.*--extrapolate"):
        effects(run, [add("exposure_1", 20.0)])
    answer = effects(run, [add("exposure_1", 20.0)], extrapolate=True)
    assert answer["overlap"]["outside"] == 1


def test_bad_questions_are_one_line_and_write_nothing(run, tmp_path):
    before = sorted(run.rglob("*")), (run / "effects.json").exists() and (run / "effects.json").read_text()
    for words, message in (
        (["--shift", "colour=+1"], "no exposure covariate or factor colour: choose of exposure_1"),
        (
            ["--shift", "colour=+1"],
            "platform_1, platform_2, preference_1, preference_2, preference_3, or platform",
        ),
        (["--shift", "taste_1=+1"], "no exposure covariate or factor taste_1"),
        (["--shift", "exposure_1"], "write COLUMN=+1.0"),
        (["--shift", "exposure_1=+9"], "not supported"),
        (["--shift", "exposure_1=+1", "--level", "90"], "level is 90"),
        (["--shift", "exposure_1=+1", "--shift", "platform_1=+1"], "not both at once"),
    ):
        said = command("effects", run, *words, "--out", tmp_path / "x.json")
        assert said.exit_code == 1, words
        assert said.stderr.startswith("error: ")
        assert message in said.stderr
    assert not list(tmp_path.iterdir())
    assert before == (
        sorted(run.rglob("*")),
        (run / "effects.json").exists() and (run / "effects.json").read_text(),
    )


def test_a_run_without_its_experts_is_named(run, tmp_path):
    copy = tmp_path / "run"
    copy.mkdir()
    for file in run.glob("*.*"):
        if file.name != "experts.safetensors":
            (copy / file.name).write_bytes(file.read_bytes())
    with pytest.raises(RunError, match=r"experts\.safetensors"):
        effects(copy, [add("exposure_1", 0.5)])


def test_setting_a_column_gives_all_users_one_value(run):
    answer = effects(run, [set_to("exposure_1", 0.0)])
    population = Population.of(run)
    assert answer["overlap"]["outside"] < 0.1
    shifted = population.under(set_to("exposure_1", 0.0), 0)[0]["exposure_covariates"][:, 0]
    assert np.ptp(shifted.numpy()) < 1e-6
