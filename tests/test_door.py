"""Claims about the front door: from a company's own files or tables to an answer, in few steps and no error."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pyro
import pytest
import torch
from company import company, write_company
from typer.testing import CliRunner

import pyro_hmvcrl as hm
from pyro_hmvcrl import cli, door
from pyro_hmvcrl.report.reading import read_run

PREFERENCE = ["plan", "tenure", "country", "device", "kids", "signed_up"]
QUICK = {"restarts": 1, "steps": 60, "encoder_steps": 20, "batch_size": 128}
SMALL = {"users": 240}


def command(*words: object):
    done = CliRunner().invoke(cli.app, [str(w) for w in words])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def logs() -> hm.Dataset:
    tables = company(**SMALL)
    return hm.from_frames(
        tables["users"],
        tables["searches"],
        tables["deliveries"],
        exposure=["autoplay", "novelty"],
        preference=PREFERENCE,
        top_categories=8,
    )


@pytest.fixture(scope="module")
def run(logs) -> hm.Run:
    return hm.fit(logs, platform_factors=1, preference_factors=1, **QUICK)


@pytest.fixture(scope="module")
def answer(run) -> hm.Answer:
    with pytest.MonkeyPatch.context() as fewer:  # as each test has them
        fewer.setattr("pyro_hmvcrl.queries.averages.USER_DRAWS", 2_000)
        return run.effects("autoplay=-0.2")


def test_three_files_of_a_company_to_effects_in_three_commands(tmp_path, monkeypatch):
    write_company(tmp_path / "files", **SMALL)
    monkeypatch.chdir(tmp_path)
    files = [f"files/{name}.csv" for name in ("users", "searches", "deliveries")]
    blocks = ["--exposure", "autoplay,novelty", "--preference", ",".join(PREFERENCE), "--top-categories", "8"]
    said = command("import", *files, "logs", *blocks)
    for words in (
        "base level 'free'",
        "given the median",
        "ISO dates",
        "not in the users' table",
        "are one, 'other'",
    ):
        assert words in said
    account = json.loads(Path("logs/import.json").read_text())
    for of in account["tables"].values():
        assert of["read"] == of["kept"] + sum(of["dropped"].values())
    sizes = ["--platform-factors", "1", "--preference-factors", "1", "--restarts", "1", "--steps", "60"]
    command("fit", "logs", "--out", "run", *sizes, "--encoder-steps", "20", "--batch-size", "128")
    assert "engagement TE" in command("effects", "run", "--shift", "autoplay=-0.2")


def test_a_share_is_held_between_0_and_1_and_it_is_said(run, answer):
    autoplay = run.dataset.users["autoplay"]
    share = float((autoplay < 0.2).mean())
    assert answer.to_dict()["overlap"]["held"] == {"autoplay": pytest.approx(share)}
    assert any("autoplay is taken for a share" in sentence for sentence in answer.sentences)
    (headline,) = answer.headlines
    assert headline.startswith("Lowering autoplay by 0.2 ")
    assert "his answer" in headline
    assert answer._repr_html_().index("Lowering autoplay") < answer._repr_html_().index("<table")
    assert answer.categories.loc[(slice(None), "shown", "after"), "mean"].sum() == pytest.approx(1, abs=1e-4)


def test_a_run_in_memory_answers_and_can_be_kept(run, answer, tmp_path):
    frame = answer.to_frame()
    assert list(frame.columns) == ["mean", "lower", "upper"]
    total = frame.loc[("engagement", "TE")]
    assert total["lower"] < total["mean"] < total["upper"]
    assert total["mean"] == answer.to_dict()["outcomes"]["engagement"]["TE"]["mean"]
    assert json.dumps(answer.to_dict())
    assert answer.plot()._repr_png_().startswith(b"\x89PNG")
    assert repr(answer).count("\n") == 1
    assert "percentage points" in repr(answer)
    assert "autoplay" in answer._repr_html_()
    assert len(repr(run)) < 200
    kept = run.save(tmp_path / "run")
    assert "autoplay" in kept.report().read_text()
    with pytest.raises(hm.RunError, match="exists already"):
        run.save(tmp_path / "run")
    again = hm.load_run(str(tmp_path / "run"))
    assert again.effects(["autoplay=-0.2"]).to_dict() == answer.to_dict()
    with pytest.raises(hm.RunError, match="no logs"):
        again.logs()


def test_several_policies_stand_side_by_side(run, answer):
    both = run.effects({"less": "autoplay=-0.2", "even": hm.set_to("autoplay", 0.5)})
    frame = both.to_frame()
    assert frame.index.names == ["policy", "outcome", "effect"]
    pd.testing.assert_frame_equal(frame.loc["less"], answer.to_frame())
    assert both["less"].to_dict() == answer.to_dict()
    assert {*both.to_dict()} == {"less", "even"}
    assert len(both.plot().axes) == 1
    assert list(both.table.index) == ["less", "even"]
    assert (
        both.table.loc["less", ("engagement", "mean")] == answer.to_frame().loc[("engagement", "TE"), "mean"]
    )
    assert read_run(run.folder)["effects"]["shift"] == ["autoplay:=0.5"]  # the last
    assert {"less", "even", "autoplay=-0.2"} <= {*run.answers.policies}
    with pytest.raises(hm.RunError, match="another answer"):
        run.effects({"less": "autoplay=-0.1"})


def test_a_list_has_several_policies_each_by_segment(run):
    several = run.effects(["autoplay=-0.2", "both: autoplay=-0.1, novelty=*1.1"], by="plan")
    assert several.policies == ["autoplay=-0.2", "both"]
    assert several["both"].to_dict()["shift"] == ["autoplay=-0.1", "novelty=*1.1"]
    plans = run.dataset.users["plan"].value_counts()
    of = several["both"].to_dict()["by_segment"]
    assert of["by"] == "plan"
    assert {name: each["users"] for name, each in of["segments"].items()} == plans.to_dict()
    assert several.segments.loc[("both", "free", "engagement", "TE"), "mean"] != 0
    with pytest.raises(ValueError, match="one name"):
        run.effects(["autoplay=-0.2", "autoplay=-0.2"])


def test_a_run_in_memory_leaves_nothing_behind(logs, caplog):
    caplog.set_level("INFO", "pyro_hmvcrl")
    run = hm.fit(logs, platform_factors=1, preference_factors=1, **QUICK | {"steps": 5, "encoder_steps": 2})
    place = run.folder.parent
    assert place.exists()
    del run
    assert not place.exists()
    noted = {record.getMessage(): record.levelname for record in caplog.records}
    assert {f"Note: {remark}.": "INFO" for remark in logs.remarks}.items() <= noted.items()  # nobody looks


def test_a_fit_that_is_there_already_is_read(logs, run, tmp_path):
    kept = run.save(tmp_path / "run")
    before = (kept.folder / "config.json").stat().st_mtime_ns
    again = hm.fit(logs, platform_factors=1, preference_factors=1, out=tmp_path / "run", **QUICK)
    assert (again.folder / "config.json").stat().st_mtime_ns == before
    with pytest.raises(hm.RunError, match="exists already"):
        hm.fit(logs, platform_factors=1, preference_factors=2, out=tmp_path / "run", **QUICK)
    with pytest.raises(hm.RunError, match="where the logs are read"):
        hm.fit(logs, platform_factors=1, preference_factors=1, periods=3, **QUICK)


def test_the_program_is_one_attribute_away(run):
    logs = run.logs()
    held = pyro.condition(run.model, data=run.coefficients | {"noise": run.noise()})
    more = logs.exposure_covariates + torch.eye(2)[0]
    moved = pyro.do(held, data={"exposure_covariates": more})(logs) - held(logs)
    assert moved.shape == (len(logs.index), 2)
    assert (moved[:, 0].std() > 0) or (moved[:, 0].abs() > 0).all()
    assert torch.equal(run.noise(), run.noise(seed=0))
    assert not torch.equal(run.noise(), run.noise(seed=1))


def test_factors_are_told_in_words_and_can_be_renamed(run, tmp_path):
    kept = run.save(tmp_path / "run")
    assert {*kept.labels} == {"platform_1", "preference_1"}
    described = json.loads((kept.folder / "report.json").read_text())["factor_categories"]["preference_1"]
    surely = [c for c, of in described["change"].items() if of["lower"] > 0 or of["upper"] < 0]
    assert bool(surely) == bool(kept.labels["preference_1"])
    kept.rename(preference_1="screen <b>drama</b>")
    assert "screen &lt;b&gt;drama&lt;/b&gt;" in kept.report().read_text()
    command("rename", kept.folder, "platform_1=autoplay push")
    assert kept.labels == {"platform_1": "autoplay push", "preference_1": "screen <b>drama</b>"}
    for names in ({"platform_2": "x"}, {"platform_1": ""}, {"platform_1": "a\nb"}):
        with pytest.raises(hm.RunError):
            kept.rename(**names)
    assert kept.labels["platform_1"] == "autoplay push"


def test_the_names_are_there_and_bring_nothing_in_that_is_not_asked_for():
    code = "import sys, pyro_hmvcrl as hm; dir(hm); print('pandas' in sys.modules); hm.from_frames; "
    code += "print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["False", "False"]
    assert (Path(hm.__path__[0]) / "py.typed").exists()


@pytest.mark.parametrize(
    ("shell", "shown"), [(None, False), (object(), False), (SimpleNamespace(kernel=1), True)]
)
def test_bars_are_shown_in_a_notebook_not_wherever_its_libraries_are_loaded(monkeypatch, shell, shown):
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert door._watched(None) == shown
    assert door._watched(not shown) != shown
