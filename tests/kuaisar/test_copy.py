"""Claims about the generated copy of KuaiSAR: its files, its quirks, and that its truth is true.  No torch needed."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pyro_hmvcrl.kuaisar.copy import folder
from pyro_hmvcrl.kuaisar.copy.catalogue import AGE_SD, DURATION_SD, SKEW, _offsets
from pyro_hmvcrl.kuaisar.copy.folder import write_kuaisar_copy
from pyro_hmvcrl.kuaisar.copy.population import CATEGORIES, EXPOSURE_COVARIATES, draw_population
from pyro_hmvcrl.kuaisar.copy.search import SOURCES
from pyro_hmvcrl.synthetic.design import Design
from pyro_hmvcrl.synthetic.world import World, draw_world, sigmoid, softmax

USERS, SEED = 400, 2
CATEGORY = "first_level_category_id"
SESSION = ["user_id", "search_session_id", "search_session_timestamp", "keyword", "search_source"]
OPENS, CLOSES = "2023-05-22 14:30:00", "2023-06-10 09:30:00"
INTEGERS, NUMBERS, TEXT = "int64", "float64", "str"
COLUMNS = {
    "user_features.csv": {
        name: INTEGERS
        for name in ("user_id", "onehot_feat1", "onehot_feat2", "search_active_level", "rec_active_level")
    },
    "rec_inter.csv": {
        "user_id": INTEGERS,
        "item_id": INTEGERS,
        "duration_ms": NUMBERS,
        "playing_time": NUMBERS,
        "timestamp": NUMBERS,
        "forward": INTEGERS,
        "like": INTEGERS,
        "follow": INTEGERS,
        "search_item_related": INTEGERS,
        "search": INTEGERS,
        "click": INTEGERS,
        "time": TEXT,
    },
    "src_inter.csv": {
        "keyword": TEXT,
        "item_id": INTEGERS,
        "click_cnt": INTEGERS,
        "search_session_id": INTEGERS,
        "item_type": TEXT,
        "user_id": INTEGERS,
        "search_session_timestamp": INTEGERS,
        "search_source": TEXT,
        "search_session_time": TEXT,
    },
    "item_features.csv": {
        "item_id": INTEGERS,
        "caption": TEXT,
        "author_id": INTEGERS,
        "item_type": TEXT,
        "upload_time": TEXT,
        "upload_type": TEXT,
    }
    | {
        f"{level}_level_category_{part}": INTEGERS if part == "id" else TEXT
        for level in ("first", "second", "third", "fourth")
        for part in ("id", "name", "name_en")
    },
    "social_network.csv": {"user_id": INTEGERS, "user_follow_id": INTEGERS},
}


@dataclass
class Copy:
    """The files as they stand, and what is left of them when the quirks are mended."""

    folder: Path
    users: pd.DataFrame = field(init=False)
    rec: pd.DataFrame = field(init=False)
    src: pd.DataFrame = field(init=False)
    items: pd.DataFrame = field(init=False)

    def __post_init__(self):
        names = "user_features.csv", "rec_inter.csv", "src_inter.csv", "item_features.csv"
        self.users, self.rec, self.src, self.items = (
            pd.read_csv(self.folder / n, keep_default_na=False) for n in names
        )
        self.truth = json.loads((self.folder / "truth.json").read_text(encoding="utf-8"))
        with np.load(self.folder / "truth.npz", allow_pickle=False) as arrays:
            self.arrays = dict(arrays)
        self.category = self.items.set_index("item_id")[CATEGORY]

    @property
    def world(self) -> World:
        return draw_world(Design.with_knobs(**self.truth["design"]), self.truth["seed"])

    @property
    def factors(self) -> np.ndarray:
        return np.hstack([self.arrays["platform"], self.arrays["preference"]])

    def deliveries(self) -> pd.DataFrame:
        """Rows of known users, each once, of positive duration."""
        rows = self.rec[self.rec["user_id"].isin(self.users["user_id"]) & (self.rec["duration_ms"] > 0)]
        return rows.drop_duplicates(["user_id", "item_id", "timestamp"])

    def results(self, sources: tuple[str, ...] = ("USER_INPUT",)) -> pd.DataFrame:
        """Items of known users' sessions, each once, with whether any of its rows was clicked."""
        known = self.src["user_id"].isin(self.users["user_id"]) & self.src["search_source"].isin(sources)
        rows = self.src[known]
        return rows.groupby([*SESSION, "item_id"], as_index=False)["click_cnt"].max()

    def counts(self, events: pd.DataFrame) -> np.ndarray:
        """``(N, C)``, of the events whose item has a category."""
        user = pd.Index(self.users["user_id"]).get_indexer(events["user_id"])
        category = events["item_id"].map(self.category).fillna(0).to_numpy(int)
        table = np.zeros((len(self.users), len(CATEGORIES)), int)
        np.add.at(table, (user[category > 0], category[category > 0] - 1), 1)
        return table


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Copy:
    folder = tmp_path_factory.mktemp("copies") / "copy"
    write_kuaisar_copy(folder, users=USERS, seed=SEED)
    return Copy(folder)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Copy:
    folder = tmp_path_factory.mktemp("copies") / "tiny"
    write_kuaisar_copy(folder, users=20, seed=SEED, events=0.02)
    return Copy(folder)


def test_the_files_have_kuaisars_columns_in_its_order_and_their_kinds(copy):
    for name, kinds in COLUMNS.items():
        table = pd.read_csv(copy.folder / name, keep_default_na=False)
        assert table.dtypes.astype(str).to_dict() == kinds, name
        assert list(table.columns) == list(kinds), name
        assert len(table) > 0
    assert set(COLUMNS) | {"truth.npz", "truth.json", "GENERATED.txt"} == {
        p.name for p in copy.folder.iterdir()
    }
    assert "NOT KuaiSAR" in (copy.folder / "GENERATED.txt").read_text()


def test_only_text_with_commas_is_quoted_and_times_are_floating_point(copy):
    line = (copy.folder / "rec_inter.csv").read_text(encoding="utf-8").splitlines()[1].split(",")
    assert len(line) == 12
    assert all(line[column].endswith(".0") for column in (2, 3, 4))
    assert '"' not in "".join(line)
    keyword = copy.src["keyword"]
    assert keyword.str.fullmatch(r"\[\d+(, \d+)*\]?").all()
    assert keyword.str.contains(",").mean() > 0.5


def test_times_agree_are_beijings_and_fill_the_window(copy):
    for table, stamp, clock in (
        (copy.rec, "timestamp", "time"),
        (copy.src, "search_session_timestamp", "search_session_time"),
    ):
        local = pd.to_datetime(table[stamp], unit="ms") + pd.Timedelta(hours=8)
        assert (local.dt.strftime("%Y-%m-%d %H:%M:%S") == table[clock]).all()
        assert OPENS <= table[clock].min() < "2023-05-22 18"
        assert "2023-06-10 05" < table[clock].max() <= CLOSES


def test_the_same_seed_gives_the_same_bytes(tiny, tmp_path):
    for seed in (SEED, SEED + 1):
        (tmp_path / str(seed)).mkdir()
        write_kuaisar_copy(tmp_path / str(seed) / "tiny", users=20, seed=seed, events=0.02)
    for file in tiny.folder.iterdir():
        assert (tmp_path / str(SEED) / "tiny" / file.name).read_bytes() == file.read_bytes(), file.name
        assert (tmp_path / str(SEED + 1) / "tiny" / file.name).read_bytes() != file.read_bytes(), file.name


def test_a_click_is_what_playing_time_and_duration_say(copy):
    rows = copy.rec[copy.rec["duration_ms"] > 0]
    whole = rows["playing_time"] >= rows["duration_ms"]
    says = np.where(rows["duration_ms"] <= 7_000, whole, rows["playing_time"] > 7_000)
    assert (says == (rows["click"] == 1)).all()
    assert 0.05 < (rows["duration_ms"] <= 7_000).mean() < 0.2
    assert 0.4 < rows["click"].mean() < 0.6
    for name in ("forward", "like", "follow"):
        assert 0 < rows[name].mean() < 0.05
        assert not rows.loc[rows["click"] == 0, name].any()


def test_sizes_and_rates_are_kuaisars(copy):
    assert len(copy.rec) / USERS == pytest.approx(564, rel=0.15)
    assert len(copy.src) / USERS == pytest.approx(196, rel=0.1)
    assert len(copy.items) / USERS == pytest.approx(266, rel=0.05)
    sessions = copy.src.groupby(SESSION)["click_cnt"].max()
    assert (sessions > 0).mean() == pytest.approx(0.6, abs=0.02)
    sources = sessions.reset_index()["search_source"].value_counts(normalize=True)
    assert sources["USER_INPUT"] == pytest.approx(0.7, abs=0.03)
    assert len(sources) == 5
    assert copy.src["item_type"].isin(["VIDEO", "IMAGE_ATLAS"]).mean() == pytest.approx(0.84, abs=0.02)
    clicked = copy.results(tuple(sources.index))
    assert 25 < copy.counts(clicked[clicked["click_cnt"] > 0]).sum() / USERS < 35
    assert copy.rec.loc[copy.rec["search"] == 1, "search_item_related"].nunique() == 2
    assert copy.rec["search"].mean() == pytest.approx(0.03, abs=0.005)


def test_items_that_are_not_videos_are_never_in_the_catalogue(copy):
    other = ~copy.src["item_type"].isin(["VIDEO", "IMAGE_ATLAS"])
    assert not copy.src.loc[other, "item_id"].isin(copy.items["item_id"]).any()


@pytest.mark.parametrize("size", ["copy", "tiny"])
def test_every_quirk_is_in_the_files_in_the_number_that_the_truth_tells(size, request):
    copy = request.getfixturevalue(size)
    users, rec, src, items = copy.users, copy.rec, copy.src, copy.items
    known = src["user_id"].isin(users["user_id"])
    sessions = src[known].drop_duplicates(SESSION)
    clicks = src[known].groupby([*SESSION, "item_id"])["click_cnt"].agg(["min", "max"])
    videos = src["item_type"].isin(["VIDEO", "IMAGE_ATLAS"])
    listed = range(1, int(max(items["item_id"].max(), rec["item_id"].max())) + 1)
    found = {
        "rec_rows_duplicated": rec.duplicated().sum(),
        "rec_rows_negative_duration": (rec["duration_ms"] < 0).sum(),
        "rec_rows_unknown_user": (~rec["user_id"].isin(users["user_id"])).sum(),
        "rec_rows_item_missing": (~rec["item_id"].isin(items["item_id"])).sum(),
        "src_rows_duplicated": src.duplicated().sum(),
        "src_rows_conflicting": ((clicks["min"] == 0) & (clicks["max"] > 0)).sum(),
        "src_rows_unknown_user": (~known).sum(),
        "src_rows_item_missing": (videos & ~src["item_id"].isin(items["item_id"])).sum(),
        "src_session_ids_recurring": len(sessions) - sessions["search_session_id"].nunique(),
        "src_keywords_broken": (~sessions["keyword"].str.endswith("]")).sum(),
        "items_missing": len(set(listed) - set(items["item_id"])),
        "items_padding_category": (items[CATEGORY] == 0).sum(),
        "items_padding_author": (items["author_id"] == 0).sum(),
        "items_padding_upload": (items["upload_time"] == "1970-01-01").sum(),
        "items_caption_large": (items["caption"].str.len() > 20_000).sum(),
    }
    assert found == copy.truth["quirks"]
    assert min(found.values()) >= 1
    negative = rec["duration_ms"] < 0
    delivery = ["user_id", "item_id", "timestamp"]  # dropping repeated ones must not drop the good row
    assert not rec[negative].merge(rec[~negative], on=delivery).size
    assert set(src.loc[~known, "search_session_id"]).isdisjoint(src.loc[known, "search_session_id"])
    padding = items[items[CATEGORY] == 0]
    assert set(padding["first_level_category_name"]) == {"空"}
    assert set(padding["first_level_category_name_en"]) == {"empty"}
    assert all(items.loc[items["caption"].str.len() > 20_000, "caption"].str.contains('"12, 34",\n'))


def test_mended_files_hold_the_counts_of_the_truth(copy, tiny, tmp_path):
    write_kuaisar_copy(tmp_path / "plain", users=30, quirks=False, events=0.1)
    plain = Copy(tmp_path / "plain")
    assert not any(plain.truth["quirks"].values())
    for c in (copy, tiny, plain):
        shown, found = c.deliveries(), c.results()
        assert (c.counts(shown) == c.arrays["exposure"]).all()
        assert (c.counts(shown[shown["click"] == 1]) == c.arrays["engagement"]).all()
        assert (c.counts(found[found["click_cnt"] > 0]) == c.arrays["search"]).all()
    assert plain.category.map(plain.category.value_counts()).min() > 1
    assert plain.category.between(1, len(CATEGORIES)).all()


def surprise(counts: np.ndarray, probability: np.ndarray) -> float:
    """z score of the log likelihood of categories under a law ``(N, C)``."""
    log = np.log(probability)
    mean = (probability * log).sum(1)
    variance = (probability * log**2).sum(1) - mean**2
    n = counts.sum(1)
    return float(((counts * log).sum() - n @ mean) / np.sqrt(n @ variance))


def test_categories_follow_the_worlds_emissions_at_the_true_factors(copy):
    world, z = copy.world, copy.factors
    for counts, emission, block in (
        (copy.counts(copy.deliveries()), world.exposure, world.platform),
        (copy.counts(copy.results().query("click_cnt > 0")), world.search, world.preference),
        (copy.counts(copy.results(SOURCES[1:]).query("click_cnt > 0")), world.search, world.preference),
    ):
        assert abs(surprise(counts, softmax(emission.logits(z[:, block])))) < 4
        assert surprise(counts, softmax(emission.logits(np.roll(z[:, block], 1, axis=0)))) < -10
    unclicked = copy.counts(copy.results().query("click_cnt == 0"))  # an importer must not take these
    assert surprise(unclicked, softmax(world.search.logits(z[:, world.preference]))) < -10


def test_clicks_follow_the_worlds_engagement_at_the_true_factors(copy):
    shown = copy.deliveries()
    exposed, engaged = copy.counts(shown), copy.counts(shown[shown["click"] == 1])
    assert abs(engagement_z(copy.world, copy, exposed, engaged)) < 4
    rolled = np.roll(engaged, 1, axis=0) * (exposed > 0)
    assert abs(engagement_z(copy.world, copy, exposed, np.minimum(rolled, exposed))) > 10


def engagement_z(world: World, copy: Copy, exposed: np.ndarray, engaged: np.ndarray) -> float:
    log_odds = world.engagement_logits(copy.factors, copy.arrays["exposure_covariates"])
    p = sigmoid(log_odds)
    centred = log_odds - log_odds.mean()
    return float(
        (centred * (engaged - exposed * p)).sum() / np.sqrt((centred**2 * exposed * p * (1 - p)).sum())
    )


def measured(copy: Copy) -> pd.DataFrame:
    """The covariates that are measured from events, as an importer does, a row per user."""
    rows = copy.deliveries()
    of_item, of_both = (
        rows.groupby(by)["click"].transform("size") for by in ("item_id", ["user_id", "item_id"])
    )
    upload = copy.items.loc[copy.items["upload_time"] != "1970-01-01"].set_index("item_id")["upload_time"]
    local = pd.to_datetime(rows["timestamp"], unit="ms") + pd.Timedelta(hours=8)
    age = (local - pd.to_datetime(rows["item_id"].map(upload))).dt.total_seconds() / 86_400
    assert age.min() >= 0
    rows = rows.assign(
        popularity=np.log1p(of_item - of_both),
        duration=np.log(rows["duration_ms"]),
        age=np.log1p(age),
        night=local.dt.hour < 6,
        day=local.dt.date,
    )
    user = rows.groupby("user_id")
    batches = user["timestamp"].nunique()
    queries = copy.results().drop_duplicates(SESSION).groupby("user_id")["keyword"]
    window = (pd.Timestamp(CLOSES) - pd.Timestamp(OPENS)).total_seconds() / 86_400
    return pd.DataFrame(
        {
            "popularity": user["popularity"].mean(),
            "duration": user["duration"].mean(),
            "age": user["age"].mean(),
            "batch_size": np.log(user.size() / batches),
            "cadence": np.log(batches / user["day"].nunique()),
            "night_share": user["night"].mean(),
            "query_rate": np.log1p(queries.size() / window),
            "query_breadth": np.log(queries.nunique() / queries.size()),
        }
    ).loc[copy.users["user_id"]]


def planted(copy: Copy) -> pd.DataFrame:
    names = copy.truth["exposure_covariates"] + copy.truth["preference_covariates"]
    values = np.hstack([copy.arrays["exposure_covariates"], copy.arrays["preference_covariates"]])
    return pd.DataFrame(values, columns=names, index=copy.users["user_id"])


def test_measured_covariates_are_the_planted_ones_and_nothing_of_the_noise(copy):
    found, true = measured(copy), planted(copy)
    for name in found:
        assert np.corrcoef(found[name], true[name])[0, 1] > 0.95, name
        assert true.drop(columns=name).corrwith(found[name]).abs().max() < 0.2, name
    noise = draw_population(USERS, SEED).noise
    design = np.column_stack([np.ones(USERS), true, true**2])
    left = found - design @ np.linalg.lstsq(design, found.to_numpy(), rcond=None)[0]
    leak = np.corrcoef(left.to_numpy().T, noise.T)[: found.shape[1], found.shape[1] :]
    assert np.abs(leak).max() < 4.5 / np.sqrt(USERS)


def of_items(copy: Copy) -> pd.DataFrame:
    """What was delivered: its user, category, and logarithms of the item's popularity, duration and age."""
    rows = copy.deliveries()
    upload = copy.items.loc[copy.items["upload_time"] != "1970-01-01"].set_index("item_id")["upload_time"]
    local = pd.to_datetime(rows["timestamp"], unit="ms") + pd.Timedelta(hours=8)
    days = (local.dt.normalize() - pd.to_datetime(rows["item_id"].map(upload))).dt.days
    found = {
        "user": pd.Index(copy.users["user_id"]).get_indexer(rows["user_id"]),
        "category": rows["item_id"].map(copy.category).fillna(0).astype(int) - 1,
        "popularity": np.log(rows.groupby("item_id")["click"].transform("size")),
        "duration": np.log(rows["duration_ms"]),
        "age": np.log1p(days.clip(lower=0)),
    }
    return pd.DataFrame(found).query("category >= 0").dropna()


def test_items_differ_by_category_in_popularity_duration_and_age_and_users_are_evened_out(copy):
    """So that covariates of the very deliveries go with their categories, and in the long run with none of them."""
    rows, population = of_items(copy), draw_population(USERS, SEED)
    offsets = _offsets(population, SEED)
    usual = population.exposure @ offsets
    for k, (name, sd) in enumerate({"popularity": SKEW, "duration": DURATION_SD, "age": AGE_SD}.items()):
        theta = population.exposure_covariates[rows["user"], k]
        left = rows[name] - np.polyval(np.polyfit(theta, rows[name], 2), theta)
        of_category = left.groupby(rows["category"]).mean()
        assert of_category.std() > 0.2, name
        assert np.corrcoef(of_category, offsets[:, k])[0, 1] > 0.95, name
        # ... and by nothing else: not by how many, and who, are shown a category.
        planted_left = left - sd * (offsets[rows["category"], k] - usual[rows["user"], k])
        assert planted_left.groupby(rows["category"]).mean().std() < of_category.std() / 3, name


def test_levels_stand_in_the_user_features_and_vary(copy, tiny):
    for c in (copy, tiny):
        true, users = planted(c), c.users.set_index("user_id")
        for name in ("rec_active_level", "search_active_level"):
            assert np.corrcoef(users[name], true[name])[0, 1] == pytest.approx(1)
        for name, values in (("onehot_feat1", {1}), ("onehot_feat1", {2}), ("onehot_feat2", {1, 4})):
            column = true[f"{name}_is_{'_or_'.join(map(str, sorted(values)))}"]
            assert np.corrcoef(users[name].isin(values), column)[0, 1] == pytest.approx(1)
        assert true.mean().to_numpy() == pytest.approx(np.zeros(13), abs=1e-9)
        assert true.std(ddof=0).to_numpy() == pytest.approx(np.ones(13))
    assert set(copy.users["rec_active_level"]) == set(range(4))
    assert set(copy.users["search_active_level"]) == set(range(7))
    assert set(copy.users["onehot_feat1"]) == set(range(3))
    assert set(copy.users["onehot_feat2"]) == set(range(8))


def test_the_laws_are_the_same_in_the_first_seven_tenths_of_the_window_and_in_the_rest(copy):
    world, z = copy.world, copy.factors
    opens, closes = (pd.Timestamp(t, tz="Asia/Shanghai").timestamp() * 1e3 for t in (OPENS, CLOSES))
    cut = opens + 0.7 * (closes - opens)
    for events, stamp, emission, block in (
        (copy.deliveries(), "timestamp", world.exposure, world.platform),
        (
            copy.results(SOURCES).query("click_cnt > 0"),
            "search_session_timestamp",
            world.search,
            world.preference,
        ),
    ):
        probability = softmax(emission.logits(z[:, block]))
        early = events[stamp] < cut
        assert early.mean() == pytest.approx(0.7, abs=0.02)
        for part in (events[early], events[~early]):
            assert abs(surprise(copy.counts(part), probability)) < 4
    rows = copy.deliveries()
    early = rows["timestamp"] < cut
    clicks, durations = rows["click"], np.log(rows["duration_ms"])
    assert clicks[early].mean() == pytest.approx(clicks[~early].mean(), abs=0.015)
    assert durations[early].mean() == pytest.approx(durations[~early].mean(), abs=0.03)


def test_popularity_raises_engagement_and_lowers_alignment(copy):
    effects = {next(iter(e["shift"])): e["outcomes"] for e in copy.truth["effects"]}
    assert list(effects) == list(EXPOSURE_COVARIATES)
    engagement, alignment = effects["popularity"]["engagement"], effects["popularity"]["alignment"]
    assert engagement["TE"] > 0.02
    assert engagement["NDE"] > 0
    assert engagement["NIE"] < 0
    assert alignment["TE"] < 0
    edges = {(e["source"], e["target"]) for e in copy.truth["edges"] if e["weight"]}
    assert edges == {("platform_1", "preference_1"), ("platform_2", "preference_2")}


def test_the_oracle_knows_the_factors(copy):
    for channel in ("platform", "preference"):
        true, guess = copy.arrays[channel], copy.arrays[f"oracle_{channel}"]
        assert all(np.corrcoef(true[:, j], guess[:, j])[0, 1] > 0.95 for j in range(true.shape[1]))
    assert (copy.arrays["user_id"] == copy.users["user_id"].astype(str)).all()


def test_no_half_written_copy_is_left(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(folder, "write_results", fail)
    with pytest.raises(OSError, match="disk full"):
        write_kuaisar_copy(tmp_path / "copy", users=20, events=0.02)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [({"users": 19}, "users is 19: it must be at least 20"), ({"events": 0.0}, "events is 0.0")],
)
def test_bad_sizes_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        write_kuaisar_copy(tmp_path / "copy", **options)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_refused_and_left(tiny):
    with pytest.raises(ValueError, match="exists already"):
        write_kuaisar_copy(tiny.folder, users=20)
    assert (tiny.folder / "truth.json").exists()
