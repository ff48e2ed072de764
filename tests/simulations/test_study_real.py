"""Real logs: the files are read and checked, and what is known by design is what is asked; on generated copies."""

from __future__ import annotations

import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import pyro_hmvcrl as hm
from pyro_hmvcrl.data.dataset import Dataset

import real
import real_logs
from real_files import GENDERS, write_bandit, write_coat
from real_logs import DRAWN, FilesError, bandit_dataset, coat_dataset, open_bandit, read_coat

SHORT = 2_000


@pytest.fixture
def bandit(tmp_path, monkeypatch):
    """A copy with fewer rows."""
    monkeypatch.setattr(real_logs, "BANDIT_ROWS", SHORT)
    return write_bandit(tmp_path / "obd", SHORT)


@pytest.fixture
def coat_folder(tmp_path):
    return write_coat(tmp_path / "coat")


@pytest.fixture(scope="module")
def coat(tmp_path_factory):
    return read_coat(write_coat(tmp_path_factory.mktemp("coat") / "coat"))


def study(monkeypatch, *words: object) -> None:
    """Run the study in its quick form, or write its tables anew."""
    monkeypatch.setattr(sys, "argv", ["real.py", "--quick", "--jobs", "1", *map(str, words)])
    real.main()


@pytest.fixture
def asked(monkeypatch):
    """Datasets that fits were asked of; each log is fitted once, as it is long."""
    asked, fitted, fit = [], {}, hm.fit

    def once(dataset: Dataset, **settings: object) -> hm.Run:
        asked.append(dataset)
        if dataset.name not in fitted:
            fitted[dataset.name] = fit(dataset, **settings)
        return fitted[dataset.name]

    monkeypatch.setattr(hm, "fit", once)
    return asked


def test_both_logs_go_through_in_the_quick_form(bandit, coat_folder, asked, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(real, "SHUFFLES", 5)
    out = tmp_path / "out"
    study(monkeypatch, "--open-bandit", bandit, "--coat", coat_folder, "--out", out)
    results = pd.read_csv(out / "results.csv")
    assert results["replication"].unique().tolist() == ["bandit-men-0", "coat-0"]
    shown = results[results["question"] == "shown"].set_index("of")
    assert shown.loc["a", ["known", "plain"]].tolist() == pytest.approx([0.4, 0.4], abs=0.06)  # 2 of 5 shares
    assert shown.loc["a", "nothing"] == pytest.approx(0.25, abs=0.06)
    assert {"searched, moved", "factor, moved", "edge", "R2", "NIE_preference"} < {*results["question"]}
    ranked = results[results["question"] == "NDCG@5"]
    assert ranked["of"].tolist() == ["ours", "popularity", "matrix factorisation", "chance"]
    assert asked[0].exposure.sum() < 3 * SHORT / 2  # the bandit of some strata is kept from the fit
    said = capsys.readouterr().out
    assert "| men | 1 | 4 |" in said
    assert "| 145 women | 1 |" in said
    assert (out / "real.png").stat().st_size > 10_000

    study(monkeypatch, "--out", out)  # without the files its tables are there, and are written again
    assert "| 145 women | 1 |" in capsys.readouterr().out


def test_a_study_without_logs_or_with_others_ends_in_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="no logs: give --open-bandit WHEEL, --coat FOLDER or both"):
        study(monkeypatch, "--out", tmp_path)
    with pytest.raises(SystemExit, match=r"train\.ascii: not found; bring Coat's own files"):
        study(monkeypatch, "--out", tmp_path, "--coat", tmp_path)


# --- Open Bandit ---------------------------------------------------------------------------------------------


def test_wheel_and_folder_are_one_and_the_order_of_columns_is_free(bandit, tmp_path):
    wheel = tmp_path / "obp.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path in bandit.rglob("*.csv"):
            archive.write(path, real_logs.IN_WHEEL + str(path.relative_to(bandit)))
    rows = open_bandit(bandit, "men")
    pd.testing.assert_frame_equal(rows, open_bandit(wheel, "men"))
    spoil(bandit / "bts/men/men.csv", lambda f: f[f.columns[::-1]])
    pd.testing.assert_frame_equal(rows, open_bandit(bandit, "men"))
    assert rows["category"].nunique() == 4  # although the two folders hash them in two ways


def spoil(path: Path, change) -> None:
    change(pd.read_csv(path, index_col=0)).to_csv(path)


FAULTS = {
    "rows": ("men.csv", lambda f: f.drop(index=5), "1,999 rows, and the sample has 2,000"),
    "column": ("men.csv", lambda f: f.drop(columns="user_feature_2"), "no column user_feature_2"),
    "gap": ("men.csv", lambda f: f.assign(user_feature_1=f["user_feature_1"].mask(f.index == 3)), "missing"),
    "click": ("men.csv", lambda f: f.assign(click=2), "click: other values than 0 and 1"),
    "item": ("men.csv", lambda f: f.assign(item_id=99), "item_id: items that item_context.csv does not"),
    "time": ("men.csv", lambda f: f.assign(timestamp="soon"), "timestamp: "),
    "items": ("item_context.csv", lambda f: f.assign(item_feature_0=0.0), "other items than in"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_other_bandit_files_are_named_with_the_mend(bandit, fault):
    name, change, said = FAULTS[fault]
    spoil(bandit / "bts/men" / name, change)
    with pytest.raises(FilesError, match=rf"bts/men/{name}: .*{said}.*(copy|take)"):
        open_bandit(bandit, "men")


def test_a_file_that_is_no_wheel_or_is_not_there(bandit, tmp_path):
    (tmp_path / "file.whl").write_text("no")
    for path, said in ((tmp_path / "file.whl", "not a wheel"), (tmp_path / "none", "not found")):
        with pytest.raises(FilesError, match=f"{path.name}: {said}; give the wheel of obp 0.4.1"):
            open_bandit(path, "men")
    (bandit / "random/men/men.csv").unlink()
    with pytest.raises(FilesError, match=r"random/men/men\.csv: not found; give the wheel"):
        open_bandit(bandit, "men")


def test_every_row_is_used_once_and_the_placebo_is_of_the_random_arm(bandit):
    rows = open_bandit(bandit, "men")
    marked = rows.assign(category=np.where(rows["arm"] == 0, "at random", "by the bandit"))
    marked = pd.concat(
        [marked, marked[marked["arm"] == 1].assign(click=1)]
    )  # so that the bandit's are letter a
    dataset, _ = bandit_dataset(marked, 0)
    assert dataset.categories == ["a", "b"]
    assert dataset.search.sum(0).tolist() == [0, SHORT / 2]
    assert dataset.exposure.sum(0).tolist() == [2 * SHORT, SHORT / 2]
    assert dataset.engagement[:, 0].sum() == SHORT + rows["click"][rows["arm"] == 1].sum()
    under = dataset.users["bandit"].to_numpy() == 1
    assert dataset.exposure[under].sum(0).tolist() == [2 * SHORT, 0]
    assert dataset.search[under].sum() == pytest.approx(SHORT / 4, abs=100)


def test_what_is_kept_from_the_fit_is_the_bandit_of_half_the_strata(bandit):
    rows = open_bandit(bandit, "men")
    dataset, unseen = bandit_dataset(rows, 0)
    assert set(dataset.users["bandit"][unseen]) == {1}
    kept = dataset.users["stratum"][unseen].nunique()
    assert kept == pytest.approx(rows["stratum"].nunique() / 2, abs=3)
    again, same = bandit_dataset(rows, 0)
    assert again.users.equals(dataset.users)
    assert (same == unseen).all()
    other, its_unseen = bandit_dataset(rows, 1)
    assert set(other.user_id[its_unseen]) != set(dataset.user_id[unseen])


# --- Coat ----------------------------------------------------------------------------------------------------


def lines(folder: Path, name: str, change) -> None:
    path = folder / name
    path.write_text("".join(change(path.read_text().splitlines(keepends=True))))


def swapped(rows: list[str]) -> list[str]:
    return [" ".join([*r.split()[2:], *r.split()[:2]]) + "\n" for r in rows]


COAT_FAULTS = {
    "rows": ("train.ascii", lambda rows: rows[:-1], "289 rows of 300, not 290 of 300"),
    "ratings": ("test.ascii", lambda rows: ["0 " * 299 + "5\n", *rows[1:]], "row 1 has 1 ratings, not 16"),
    "ends": ("test.ascii", lambda rows: [rows[0].replace("5", "9"), *rows[1:]], "ratings outside 0 to 5"),
    "text": ("test.ascii", lambda rows: ["coat\n", *rows[1:]], "could not convert"),
    "order": ("user_item_features/user_features.ascii", swapped, "levels of .* put the columns in their own"),
    "values": (
        "user_item_features/item_features.ascii",
        lambda rows: [r.replace("1", "7") for r in rows],
        "0 and 1",
    ),
}


@pytest.mark.parametrize("fault", COAT_FAULTS)
def test_other_coat_files_are_named_with_the_mend(coat_folder, fault):
    name, change, said = COAT_FAULTS[fault]
    lines(coat_folder, name, change)
    with pytest.raises(FilesError, match=rf"{name}: .*{said}.*bring Coat's own files"):
        read_coat(coat_folder)


def test_what_is_chosen_is_searched_and_what_is_drawn_is_shown(coat):
    dataset = coat_dataset(coat)
    assert (dataset.search.sum(1) == 24).all()
    assert (dataset.exposure.sum(1) == DRAWN).all()
    assert dataset.engagement.sum() == (coat.drawn >= 4).sum()
    womens = [c.startswith("women") for c in dataset.categories]
    np.testing.assert_allclose(dataset.exposure[:, womens].sum(1) / DRAWN, dataset.users["womens_share"])
    half = coat_dataset(coat, rated=GENDERS == 0)
    assert set(half.exposure.sum(1)[GENDERS == 1]) == {0}
    assert (half.search == dataset.search).all()


def test_the_contrast_is_that_of_the_design(coat):
    """Own coats are rated 4 or 5 oftener by 0.3: women's by women, and more seldom by men."""
    for gender, sign in ((0, -1), (1, 1)):
        found, error = real.contrast(coat, gender)
        assert abs(found - sign * 0.3) < 3 * error
        assert error == pytest.approx((0.21 + 0.25) ** 0.5 / (145 * DRAWN / 2) ** 0.5, rel=0.1)


def test_a_user_is_ranked_by_a_fit_that_has_not_seen_what_the_user_rated(coat, monkeypatch):
    seen = []

    def shown(fitted: Dataset, _: object) -> np.ndarray:
        seen.append(fitted.exposure.sum(1))
        return np.tile(seen[-1][:, None], (1, 300))

    monkeypatch.setattr(real, "coat_scores", shown)
    assert not real.scores_unseen(coat, lambda dataset: dataset, np.random.default_rng(0)).any()
    assert (seen[0] + seen[1] == DRAWN).all()


def test_ndcg_is_one_for_the_right_order_and_skips_what_was_chosen(coat):
    rng = np.random.default_rng(0)
    best = real.ndcg(coat.drawn.astype(float), coat, rng)
    assert np.nanmin(best) == 1
    chance = real.ndcg(np.zeros(coat.drawn.shape), coat, rng)
    assert 0.2 < np.nanmean(chance) < 0.6
    user, liked = next((u, np.flatnonzero(d >= 4)) for u, d in enumerate(coat.drawn) if (d >= 4).any())
    chosen = coat.chosen.copy()
    chosen[user, liked] = 5  # all that the user likes was chosen: nothing is left to rank
    assert np.isnan(real.ndcg(coat.drawn.astype(float), replace(coat, chosen=chosen), rng)[user])


def test_one_good_coat_third_scores_half():
    drawn = np.zeros((290, 300), int)
    drawn[0, :4] = [1, 2, 5, 3]
    nothing = pd.DataFrame()
    one = real_logs.Coat(np.zeros_like(drawn), drawn, nothing, nothing)
    scores = np.zeros((1, 300))
    scores[0, :4] = [4, 3, 2, 1]
    assert real.ndcg(scores, one, np.random.default_rng(0)) == pytest.approx([0.5])  # 1 / log2(4)
