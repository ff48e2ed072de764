"""Claims about effects on further outcomes: the true ones at the true parameters, and what a run tells of them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_hmvcrl.data.folder import read_dataset
from pyro_hmvcrl.inference.checkpoints import load_tensors, save_tensors
from pyro_hmvcrl.inference.laplace import ParameterPosterior, fitted_values
from pyro_hmvcrl.inference.settings import Settings
from pyro_hmvcrl.queries.answer import effects
from pyro_hmvcrl.queries.averages import Users, average_effects
from pyro_hmvcrl.queries.further import rate
from pyro_hmvcrl.queries.interventions import add
from pyro_hmvcrl.queries.mediation import OUTCOMES
from pyro_hmvcrl.report.page import write_report
from pyro_hmvcrl.report.terminal import effects_text, summary_text
from pyro_hmvcrl.run.files import RunError
from pyro_hmvcrl.run.fitting import fit_dataset, is_run_of
from pyro_hmvcrl.run.load import load_run
from pyro_hmvcrl.story.outcomes import OutcomeStory
from pyro_hmvcrl.synthetic.design import Design
from pyro_hmvcrl.synthetic.folder import write_simulation
from pyro_hmvcrl.synthetic.simulation import simulate
from pyro_hmvcrl.synthetic.truth import true_effects

from worlds import logs_of, tensor, true_expansion

QUICK = Settings(2, 3, restarts=1, steps=40, encoder_steps=10, batch_size=64, periods=3, device="cpu")
KNOWN = ("TE", "NDE", "NIE", "NIE_platform", "NIE_preference", "NIE_loop")


def of_liking(sim):
    """The outcome's true coefficients as sites."""
    of = sim.world.liking
    values = {"a": of.preference, "b": of.intercept, "alpha": of.platform, "delta": of.direct}
    values |= {"delta_bend": 0 * of.direct, "along": np.zeros(1)}
    return {f"liked.{part}": tensor(value) for part, value in values.items()}


@pytest.mark.all_draws
@pytest.mark.parametrize("learning", [0.0, 0.5])
def test_at_the_true_parameters_effects_are_the_true_ones(learning):
    design = Design(users=400, categories=8, liked=0.8, direct=0.5, learning=learning, periods=3)
    sim = simulate(design, 1)
    guide, logs = true_expansion(sim), logs_of(sim)
    values = fitted_values(guide) | of_liking(sim)
    if learning:
        values["liked.familiarity"] = torch.zeros(1)
    nothing = {name: value.expand(2, *value.shape) for name, value in values.items()}
    posterior = ParameterPosterior(values, {}, nothing, {}, {})
    liked = {"liked": lambda world: rate(OutcomeStory("liked", guide.model), world)}
    shifted = logs.exposure_covariates + torch.eye(design.exposure_covariates)[0]
    asked = {"exposure_covariates": shifted}
    found = average_effects(guide, posterior, Users(logs), asked, outcomes=OUTCOMES | liked, whole=False)
    true = true_effects(sim, {"exposure_1": 1.0}, draws=200)["outcomes"]["liked"]
    for name in KNOWN:
        assert found.contrasts["liked"][name].mean() == pytest.approx(true[name], abs=0.002), name
    assert abs(true["TE"]) > 0.01


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Runs of the same logs with what users like and without, and the logs."""
    base = tmp_path_factory.mktemp("further")
    write_simulation(simulate(Design(users=150, categories=6, liked=0.8), 0), base / "data", 0)
    dataset = read_dataset(base / "data", periods=3)
    fit_dataset(dataset, base / "run", QUICK)
    fit_dataset(replace(dataset, outcomes={}), base / "plain", QUICK)
    for name in ("posterior", "outcomes"):  # a few draws do for what is claimed here
        file = base / "run" / f"{name}.safetensors"
        tensors, about = load_tensors(file)
        few = {n: t[:6] if n.startswith(("draws/", "placebo/")) else t for n, t in tensors.items()}
        save_tensors(file, few, about)
    return base / "run", base / "plain", dataset


def test_the_fit_is_the_same_with_them_and_without(folders):
    run, plain, dataset = folders
    for file in ("model.safetensors", "experts.safetensors", "factors.parquet", "graph.csv", "training.csv"):
        assert (run / file).read_bytes() == (plain / file).read_bytes(), file
    one, other = (json.loads((of / "report.json").read_text()) for of in (run, plain))
    assert one.pop("value").keys() == {"engaged", "liked"}
    assert one == other
    assert not (plain / "outcomes.safetensors").exists()
    assert "outcomes" not in json.loads((plain / "config.json").read_text())
    assert is_run_of(run, dataset, QUICK)
    assert not is_run_of(plain, dataset, QUICK)


def test_an_answer_tells_of_them_as_of_engagement(folders):
    run, plain, dataset = folders
    shift = [add("exposure_1", 0.3)]
    answer, other = (effects(of, shift, extrapolate=True, by="exposure_2") for of in (run, plain))
    assert list(answer["outcomes"]) == ["engagement", "alignment", "liked"]
    assert list(other["outcomes"]) == ["engagement", "alignment"]
    assert answer["outcomes"]["liked"].keys() == answer["outcomes"]["engagement"].keys()
    te, nde, nie = (answer["outcomes"]["liked"][name]["mean"] for name in ("TE", "NDE", "NIE"))
    assert te == pytest.approx(nde + nie)
    assert {"liked"} < answer["regression"].keys()
    assert {"liked"} < answer["dose_response"].keys()
    rates = dataset.outcomes["liked"].sum() / dataset.counts["exposure"].sum()
    assert answer["outcomes"]["liked"]["levels"]["before"]["mean"] == pytest.approx(rates, abs=0.05)
    sentence = next(said for said in answer["sentences"] if said.startswith("liked: from "))
    assert "percentage points (90% intervals)" in sentence
    assert sentence in effects_text(answer, run)
    assert "What users look for" in summary_text(run)
    assert "liked" not in summary_text(plain)
    (run / "effects.json").write_text(json.dumps(answer))
    page = write_report(run).read_text()
    assert sentence.partition(":")[2].strip()[:20] in page
    counterfactual = effects(run, shift, extrapolate=True, counterfactual=True)
    assert "liked" in counterfactual["outcomes"]


def test_activity_has_each_user_s_number(folders):
    run, plain, dataset = folders
    activity = pd.read_parquet(run / "activity.parquet")
    assert activity["outcome_liked"].tolist() == dataset.outcomes["liked"].sum(1).ravel().tolist()[0]
    assert pd.read_parquet(plain / "activity.parquet").equals(activity.drop(columns="outcome_liked"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t | {"mean/liked.b": torch.zeros(3)}, "mean/liked.b is not of (6,) numbers"),
        (lambda t: t | {"mean/liked.b": torch.full((6,), torch.nan)}, "mean/liked.b is not finite"),
        (lambda t: {n: of for n, of in t.items() if n != "sd/liked.along"}, "no 'liked.along'"),
        (lambda t: t | {"mean/hidden.b": torch.zeros(6)}, "no 'hidden.b'"),
        (lambda t: t | {"information/hidden": torch.ones(())}, "of other outcomes than config.json has"),
        (lambda t: t | {"sd/liked.b": -torch.ones(6)}, "sd/liked.b is below 0"),
        (lambda t: t | {"information/liked": -torch.ones(())}, "of other outcomes than config.json has"),
        (lambda t: t | {"draws/liked.b": t["draws/liked.b"][:2]}, "draws/liked.b is not of (6, 6) numbers"),
    ],
)
def test_a_damaged_file_is_refused(folders, tmp_path, change, said):
    run = tmp_path / "run"
    shutil.copytree(folders[0], run)
    file = run / "outcomes.safetensors"
    tensors, about = load_tensors(file)
    save_tensors(file, change(tensors), about)
    with pytest.raises(RunError) as caught:
        load_run(run)
    assert str(file) in str(caught.value)
    assert said in str(caught.value)
    file.unlink()
    with pytest.raises(RunError, match=r"outcomes\.safetensors: not found"):
        load_run(run)
