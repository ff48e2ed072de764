"""Claims about reading a run: nothing is true but what its files hold, and no memory goes to what they claim."""

from __future__ import annotations

import json
import resource
import shutil

import pytest
import torch

from pyro_hmvcrl.inference.checkpoints import load_tensors, save_tensors
from pyro_hmvcrl.inference.settings import Settings
from pyro_hmvcrl.run.files import RunError
from pyro_hmvcrl.run.fitting import fit_folder
from pyro_hmvcrl.run.load import load_run
from pyro_hmvcrl.synthetic.design import Design
from pyro_hmvcrl.synthetic.folder import write_simulation
from pyro_hmvcrl.synthetic.simulation import simulate


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    base = tmp_path_factory.mktemp("load")
    write_simulation(simulate(Design(users=80, categories=6), 0), base / "data", seed=0, truth=False)
    settings = Settings(2, 3, restarts=1, steps=10, encoder_steps=5, device="cpu", periods=2)
    fit_folder(base / "data", base / "run", settings)
    return base / "run"


@pytest.fixture
def run(fitted, tmp_path):
    return shutil.copytree(fitted, tmp_path / "run")


def change(path, **changes):
    """Tensors of a file, some of them another; None takes one out."""
    tensors, metadata = load_tensors(path)
    changed = {name.replace("__", "."): value for name, value in changes.items()}
    assert set(changed) & set(tensors) or "new" in changed
    whole = {name: t for name, t in (tensors | changed).items() if t is not None}
    save_tensors(path, whole, metadata)


def test_what_a_fit_wrote_is_read(run):
    assert load_run(run).factor_names == [
        *(f"platform_{k}" for k in (1, 2)),
        *(f"preference_{k}" for k in (1, 2, 3)),
    ]


@pytest.mark.parametrize("factors", [1_000, 999])
def test_sizes_are_those_that_the_bytes_vouch_for(run, factors):
    """Tensors without an entry are of any length."""
    config = json.loads((run / "config.json").read_text()) | {"platform_factors": factors}
    (run / "config.json").write_text(json.dumps(config))
    tensors, metadata = load_tensors(run / "posterior.safetensors")
    for name in list(tensors):
        if name.endswith(("/alpha", "/f_exposure.outer", "/f_exposure.linear", "/edges")):
            tensors[name] = torch.zeros(factors, 0)
    save_tensors(run / "posterior.safetensors", tensors, metadata)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(RunError, match=r"posterior\.safetensors: cannot be read \((mean|draws)/"):
        load_run(run)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model__graph__allowed": torch.ones(5, 5)}, "its graph is none that a fit makes"),
        ({"model__graph__allowed": torch.zeros(5, 5)}, "its graph is none that a fit makes"),
        ({"model__graph__allowed": torch.full((5, 5), 0.5)}, "its graph is none that a fit makes"),
        ({"model__graph__oriented": torch.tensor(False)}, "its graph is none that a fit makes"),
        ({"model__graph__order": torch.arange(4, -1, -1)}, "its graph is none that a fit makes"),
        ({"model__graph__order": torch.tensor([0, 0, 1, 2, 3])}, "its graph"),
        ({"model__graph__order": torch.tensor([0, 1, 2, 3, 10**9])}, ""),
        ({"model__zero": torch.tensor(3.0)}, "model.zero is not what it must be"),
        ({"model__usual_engagement": torch.tensor(7.0)}, "its usual engagement is no rate"),
        (
            {"search_encoder__rows": torch.zeros(6, dtype=torch.long)},
            "search_encoder.rows is not what it must be",
        ),
        ({"new": torch.zeros(1)}, "new is no part of such a model"),
        ({"model__zero": None}, "model.zero"),
        (
            {"model__f_search__intercept": torch.zeros(6, 1)},
            "model.f_search.intercept is not of (6,) numbers",
        ),
        (
            {"model__f_search__intercept": torch.zeros(6).double()},
            "model.f_search.intercept is not of (6,) numbers",
        ),
    ],
)
def test_weights_and_graph_are_those_of_such_a_model(run, changes, said):
    change(run / "model.safetensors", **changes)
    with pytest.raises(RunError) as caught:
        load_run(run)
    assert str(caught.value).startswith(f"{run / 'model.safetensors'}: cannot be read (")
    assert said in str(caught.value)


def test_draws_have_a_bound(run):
    tensors, metadata = load_tensors(run / "posterior.safetensors")
    many = {
        n: t[:1].expand(10_001, *t.shape[1:])
        for n, t in tensors.items()
        if n.startswith(("draws", "placebo"))
    }
    save_tensors(run / "posterior.safetensors", tensors | many, metadata)
    with pytest.raises(RunError, match="has 10,001 draws"):
        load_run(run)
