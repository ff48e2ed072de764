"""A generated copy of KuaiSAR: its files, its size and its quirks, with the truth beside them.

KuaiSAR may not be redistributed, and nobody knows the factors of its users.  :func:`write_kuaisar_copy` writes files
of the same names, columns and oddities for users who follow the generative story, at any size, so that an importer
and a fit can be held against what is true.

What is planted: a world of :mod:`pyro_hmvcrl.simulate` (2 platform and 3 preference factors, 24 first-level
categories) in which one more standard deviation of popularity raises engagement and lowers alignment.  Its covariates
are planted too, and the files are made so that each one, **measured from the files**, is nearly linear in the planted
one:

- *popularity*, *duration* and *age*: inside every category, items stand in bands of geometrically falling
  popularity, and inside a band in a grid, duration by upload date.  A delivery draws three normal scores about the
  user's covariates, and takes the item that stands there;
- *batch size*, *cadence* and *night share* set when and how many items are delivered;
- *query rate* and *query breadth* set how many queries of the user's own there are, and how many distinct ones;
- levels and one-hot features stand in ``user_features.csv``.

Nothing but an event's category (and whether it was engaged with) depends on the factors, and the laws are the same
from the window's first day to its last.  Clicked search results follow ``f_S(preference)``, in sessions that the
user typed and in those that the platform suggested alike; results that were not clicked follow the catalogue.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from tqdm.auto import tqdm

from pyro_hmvcrl.dataset import whole_folder
from pyro_hmvcrl.simulate import (
    SUBSTITUTION,
    Array,
    Design,
    Simulation,
    World,
    draw_world,
    sigmoid,
    softmax,
    true_edges,
    true_effects,
    truth_arrays,
)

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
Rows = dict[str, NDArray[Any]]  #: the columns of a table, all of one length

EXPOSURE_COVARIATES = (
    "popularity",
    "duration",
    "age",
    "batch_size",
    "cadence",
    "night_share",
    "rec_active_level",
)
PREFERENCE_COVARIATES = (
    "query_rate",
    "query_breadth",
    "search_active_level",
    "onehot_feat1_is_1",
    "onehot_feat1_is_2",
    "onehot_feat2_is_1_or_4",
)
CATEGORIES = (
    ("美食", "Food"),
    ("音乐", "Music"),
    ("舞蹈", "Dance"),
    ("游戏", "Game"),
    ("体育", "Sports"),
    ("影视", "Film and TV"),
    ("动漫", "Anime"),
    ("搞笑", "Funny"),
    ("情感", "Emotion"),
    ("时尚", "Fashion"),
    ("美妆", "Beauty"),
    ("汽车", "Cars"),
    ("旅游", "Travel"),
    ("宠物", "Pets"),
    ("亲子", "Parenting"),
    ("教育", "Education"),
    ("科技", "Technology"),
    ("健康", "Health"),
    ("三农", "Farming"),
    ("家居", "Home"),
    ("手工", "Crafts"),
    ("摄影", "Photography"),
    ("资讯", "News"),
    ("生活", "Daily life"),
)
PADDING_CATEGORY = "0,空,empty"

DAY = 86_400_000  #: ms
BEIJING = 8 * 3_600_000  #: ms ahead of UTC
FIRST_DATE = (date(2023, 5, 22) - date(1970, 1, 1)).days
OPENS, CLOSES = 14.5, 9.5  #: hours of the first and the last date
SLOTS = 19  #: days of presence: 18 whole dates, and the window's two parts of dates as one
WINDOW_DAYS = 18 + (24 - OPENS + CLOSES) / 24

ITEMS_A_USER = 266.6  #: 6.9 million for KuaiSAR's 25,877 users
MOST_BANDS, ITEMS_A_BAND = 24, 1_000  #: at most, and at least
SKEW = 1.5  #: sd of log popularity over deliveries
PULL = 0.6  #: correlation of a delivery's scores with the user's covariates
MEDIAN_DURATION, DURATION_SD = 20_000, 0.8  #: ms, of its logarithm
MEDIAN_AGE, AGE_SD = 20, 1.0  #: days, of the logarithm of 1 + age
# Intercepts, and slopes on the standardised covariate:
CADENCE = (1.9, 0.5)  #: of the logarithm of batches a day
BATCH_SIZE = (1.5, 0.35)  #: of the logarithm of the items of a batch after the first
NIGHT_SHARE = (-1.0, 0.7)  #: of its log odds
QUERY_RATE = (0.867, 0.3)  #: of the logarithm of 1 + queries a day
QUERY_BREADTH = (-0.7, 0.25)  #: of the logarithm of distinct keywords a query
CLICK_FROM = 7_000  #: ms: the watching time that makes a click, of longer items
VOCABULARY = 100_000
KEYWORDS_A_USER = 45
SESSIONS_A_CHUNK = 5_000_000  #: room for session ids
MOST_RESULTS = 12
OTHER_ITEMS_FROM = 103_656_000_000  #: ids of users, broadcasts, goods, ... among search results
USERS_A_CHUNK, ITEMS_A_CHUNK = 500, 400_000

SEARCH_TYPES = ("VIDEO", "IMAGE_ATLAS", "USER", "LIVE", "COMMODITY", "MUSIC", "ADVERT")
SEARCH_TYPE_SHARES = (0.72, 0.12, 0.06, 0.03, 0.03, 0.02, 0.02)
CATALOGUED_TYPES = 2  #: the first two of them
SOURCES = ("USER_INPUT", "SEARCH_BAR_BACKFILL", "RELATED_SEARCH", "HOT_LIST", "SEARCH_HISTORY")
ITEM_TYPES, ITEM_TYPE_SHARES = ("NORMAL", "AD", "PHOTO_SERIES"), (0.94, 0.04, 0.02)
UPLOAD_TYPES = ("LongImport", "ShortImport", "ShortCamera", "LongCamera", "PictureSet", "Web")

QUIRK_RATES = {  # share of rows, sessions or items
    "rec_rows_duplicated": 0.002,
    "rec_rows_negative_duration": 0.001,
    "rec_rows_unknown_user": 0.001,
    "src_rows_duplicated": 0.002,
    "src_rows_conflicting": 0.004,  # of the clicked ones
    "src_rows_unknown_user": 0.001,
    "src_session_ids_recurring": 0.005,
    "src_keywords_broken": 0.002,
    "items_missing": 0.01,
    "items_padding_category": 0.005,
    "items_padding_author": 0.003,
    "items_padding_upload": 0.003,
    "items_caption_large": 1e-5,
}
QUIRKS = (*QUIRK_RATES, "rec_rows_item_missing", "src_rows_item_missing")


@dataclass(frozen=True)
class Population:
    """Users with their planted covariates and true factors."""

    world: World
    features: Rows  #: user_features.csv
    exposure_covariates: Array  #: (N, 7), standardised
    preference_covariates: Array  #: (N, 6), standardised
    noise: Array  #: (N, K)
    factors: Array  #: (N, K)

    @cached_property
    def search(self) -> Array:
        """Probability of each category in a search, ``(N, C)``."""
        return softmax(self.world.search.logits(self.factors[:, self.world.preference]))

    @cached_property
    def exposure(self) -> Array:
        """Probability of each category in a delivery, ``(N, C)``."""
        return softmax(self.world.exposure.logits(self.factors[:, self.world.platform]))

    @cached_property
    def engagement(self) -> Array:
        """Probability of engagement by category, ``(N, C)``."""
        return sigmoid(self.world.engagement_logits(self.factors, self.exposure_covariates))


@dataclass(frozen=True)
class Catalogue:
    """Items in the order category, band, duration, upload date; an item is its position there.

    Attributes
    ----------
    tall, wide, start
        Durations and upload dates in the grid of each category and band, and its first item, ``(C, bands)``.
    category, duration, upload_day
        Of each item: position of its category, ms, and Beijing date in days since 1970.
    item_id
        A permutation of 1..I.
    missing, padding_category, padding_author, padding_upload, caption_large
        The items with each quirk.
    wanted_uploads
        A sorted sample of the time, in days since 1970, at which the item of a delivery should have been uploaded.
    """

    tall: Ints
    wide: Ints
    start: Ints
    category: NDArray[np.int8]
    duration: NDArray[np.int32]
    upload_day: NDArray[np.int32]
    item_id: Ints
    missing: Mask
    padding_category: Mask
    padding_author: Mask
    padding_upload: Mask
    caption_large: Mask
    wanted_uploads: Array

    @cached_property
    def first(self) -> Ints:
        """First item of every category, and the number of items, ``(C + 1,)``."""
        return np.append(self.start[:, 0], len(self.category))

    @cached_property
    def has_category(self) -> Mask:
        return ~(self.missing | self.padding_category)


@dataclass(frozen=True)
class _Tally:
    """What the files hold: events with a category ``(N, C)``, and the quirks that were planted."""

    search: Ints  # clicked, in sessions that the user typed
    exposure: Ints
    engagement: Ints
    quirks: Counter[str]

    @classmethod
    def empty(cls, users: int) -> _Tally:
        search, exposure, engagement = np.zeros((3, users, len(CATEGORIES)), np.int64)
        return cls(search, exposure, engagement, Counter())


@dataclass(frozen=True)
class _Planter:
    """Chooses where quirks go, and counts them.  `whole`: at least one of each kind."""

    rng: np.random.Generator
    tally: Counter[str]
    on: bool
    whole: bool

    def choose(self, quirk: str, among: int | Ints) -> Ints:
        """Distinct positions, in order, at the quirk's rate."""
        candidates = np.arange(among) if isinstance(among, int) else among
        if not self.on or not len(candidates):
            return np.zeros(0, np.int64)
        number = max(self.rng.binomial(len(candidates), QUIRK_RATES[quirk]), int(self.whole))
        self.tally[quirk] += number
        return np.sort(self.rng.choice(candidates, number, replace=False, shuffle=False))


def write_kuaisar_copy(
    out: Path,
    users: int = 25_877,
    seed: int = 0,
    quirks: bool = True,
    events: float = 1.0,
    progress: bool = False,
) -> None:
    """Write a generated copy of KuaiSAR with its truth, whole or not at all.

    Beside KuaiSAR's five files stand ``GENERATED.txt``; ``truth.npz``, with a row per user in the order of
    ``user_features.csv``: user_id, the true factors (platform, preference), the posterior means under the true
    parameters (oracle_platform, oracle_preference), the planted exposure_covariates and preference_covariates, and the
    counts ``(N, C)`` of events of known users that have a category, without repeated rows and rows of negative
    duration (search: clicked results of USER_INPUT sessions; exposure; engagement); and ``truth.json`` with the
    seed, design, edges, covariates' names, categories, true effects of one standard deviation more of each exposure
    covariate, and the number of each quirk in the files.

    Parameters
    ----------
    out
        The folder; must not exist yet.
    users
        At least 20.  The default, with `events` at 1, gives KuaiSAR's size.
    quirks
        Plant the oddities of the real files: rows, sessions and items that an importer has to mend or to drop.
    events
        Factor on each user's events, and on the items.  Below 1 users are there on fewer days, above 1 they get
        more batches a day.  A user has at least one batch and one query, and a category 15 items.

    Raises
    ------
    ValueError
        If the folder exists, there are fewer than 20 users, or `events` is not above 0.
    """
    out = Path(out)
    if out.exists():
        raise ValueError(f"{out}: exists already; choose another folder or remove this one")
    if users < 20:
        raise ValueError(f"users is {users}: it must be at least 20")
    if not 0 < events < np.inf:
        raise ValueError(f"events is {events}: it must be above 0, and finite")
    population = draw_population(users, seed)
    tally = _Tally.empty(users)
    planter = _Planter(np.random.default_rng([seed, 11]), tally.quirks, quirks, whole=True)
    catalogue = _catalogue(planter, population, round(users * events * ITEMS_A_USER), seed)
    with whole_folder(out) as folder:
        _write_users(folder, population, seed)
        _write_items(folder / "item_features.csv", catalogue, seed)
        _write_events(folder, population, catalogue, tally, seed, quirks, events, progress)
        _write_truth(folder, population, tally, seed, events)
        arguments = f"users={users}, seed={seed}, quirks={quirks}, events={events}"
        (folder / "GENERATED.txt").write_text(
            "These files are generated: they are NOT KuaiSAR, and hold nothing of it but its format. They come from\n\n"
            f"    pyro_hmvcrl.kuaisar_copy.write_kuaisar_copy(Path({out.name!r}), {arguments})\n\n"
            "truth.npz and truth.json say what is true of them.\n",
            encoding="utf-8",
        )


# --- The world and its users ---------------------------------------------------------------------------------


def draw_population(users: int, seed: int) -> Population:
    """Draw the world, and users with planted covariates and true factors."""
    design = Design.with_knobs(
        users=users,
        categories=len(CATEGORIES),
        exposure_covariates=len(EXPOSURE_COVARIATES),
        preference_covariates=len(PREFERENCE_COVARIATES),
        **SUBSTITUTION,
    )
    world, rng = draw_world(design, seed), np.random.default_rng([seed, 12])
    features = {
        "user_id": rng.permutation(users) + 1,
        "onehot_feat1": _levels(rng, users, (0.5, 0.3, 0.2)),
        "onehot_feat2": _levels(rng, users, (0.2, 0.15, 0.15, 0.1, 0.2, 0.08, 0.07, 0.05)),
        "search_active_level": _levels(rng, users, (0.08, 0.12, 0.18, 0.22, 0.18, 0.13, 0.09)),
        "rec_active_level": _levels(rng, users, (0.1, 0.2, 0.3, 0.4)),
    }
    exposure = [*rng.normal(size=(6, users)), features["rec_active_level"]]
    preference = [
        *rng.normal(size=(2, users)),
        features["search_active_level"],
        features["onehot_feat1"] == 1,
        features["onehot_feat1"] == 2,
        np.isin(features["onehot_feat2"], (1, 4)),
    ]
    c_exposure, c_preference = (_standardised(np.stack(columns, 1)) for columns in (exposure, preference))
    location, scale = world.mechanisms(c_exposure, c_preference)
    noise = rng.normal(size=location.shape)
    factors = world.through_graph(location + scale * noise)
    return Population(world, features, c_exposure, c_preference, noise, factors)


def _levels(rng: np.random.Generator, users: int, shares: Sequence[float]) -> Ints:
    """Levels 0, 1, ... in these shares, exactly, in random order."""
    rank = (rng.permutation(users) + 0.5) / users
    return np.searchsorted(np.cumsum(shares)[:-1], rank)


# --- Items ---------------------------------------------------------------------------------------------------


def _catalogue(planter: _Planter, population: Population, items: int, seed: int) -> Catalogue:
    """About `items` items, so many in each category and band that a band's popularity is the same in all categories.

    Otherwise a category whose audience is shown popular items would have more popular ones, and the popularity that
    a user is shown would tell of the factors.
    """
    rng = np.random.default_rng([seed, 13])
    bands = int(np.clip(items // ITEMS_A_BAND, 4, MOST_BANDS))
    edges = ndtri(np.linspace(0, 1, bands + 1))  # of the popularity score, whose bands have equal deliveries
    rarity = np.diff(ndtr(edges + SKEW))  # log popularity is linear in the score
    wanted_items = _audience(population, edges) * rarity
    wanted_items *= items / wanted_items.sum()
    wanted_items[:, 0] = np.maximum(wanted_items[:, 0], MOST_RESULTS)  # enough for a session of one category
    wide = np.maximum(np.rint(np.sqrt(wanted_items)), 1).astype(np.int64)
    tall = np.maximum(np.rint(wanted_items / wide), 1).astype(np.int64)
    size = (tall * wide).ravel()
    start = np.cumsum(size) - size
    block = np.repeat(np.arange(size.size), size)
    place = np.arange(size.sum()) - start[block]
    row, column = np.divmod(place, wide.ravel()[block])
    wanted = np.sort(_wanted_upload(rng.normal(size=200_000), FIRST_DATE + _window_time(rng, 200_000)))
    upload = wanted[((column + 0.5) / wide.ravel()[block] * len(wanted)).astype(np.int64)]
    score = ndtri((row + rng.random(len(place))) / tall.ravel()[block])
    order = rng.permutation(len(place))
    item_id = np.empty(len(place), np.int64)
    item_id[order] = np.arange(1, len(place) + 1)

    def marked(quirk: str) -> Mask:
        mask = np.zeros(len(place), bool)
        mask[planter.choose(quirk, present)] = True
        return mask

    present = np.arange(len(place))
    missing = marked("items_missing")
    present = np.flatnonzero(~missing)  # the other quirks show in the file
    return Catalogue(
        tall=tall,
        wide=wide,
        start=start.reshape(wide.shape),
        category=(block // bands).astype(np.int8),
        duration=np.rint(MEDIAN_DURATION * np.exp(DURATION_SD * score)).astype(np.int32),
        upload_day=np.floor(upload).astype(np.int32),
        item_id=item_id,
        missing=missing,
        padding_category=marked("items_padding_category"),
        padding_author=marked("items_padding_author"),
        padding_upload=marked("items_padding_upload"),
        caption_large=marked("items_caption_large"),
        wanted_uploads=wanted,
    )


def _audience(population: Population, edges: Array) -> Array:
    """Expected deliveries in each category and band, ``(C, bands)``, in an arbitrary unit."""
    popularity, _, _, batch_size, cadence = population.exposure_covariates.T[:5]
    deliveries = np.exp(CADENCE[1] * cadence) * (1 + np.exp(BATCH_SIZE[0] + BATCH_SIZE[1] * batch_size))
    upto = ndtr((edges - PULL * popularity[:, None]) / np.sqrt(1 - PULL**2))
    return (deliveries[:, None] * population.exposure).T @ np.diff(upto, axis=1)


def _wanted_upload(score: Array, delivered: Array) -> Array:
    """Upload time of an item whose age has this normal score when delivered; both times in days."""
    return np.asarray(delivered - np.maximum((1 + MEDIAN_AGE) * np.exp(AGE_SD * score) - 1, 0))


def _window_time(rng: np.random.Generator, size: int) -> Array:
    """Times within the window, in days since the first date's midnight."""
    return OPENS / 24 + WINDOW_DAYS * rng.random(size)


def _items_at(catalogue: Catalogue, category: Ints, scores: Array, delivered: Array) -> Ints:
    """The items of these categories that stand at these scores ``(3, n)`` of popularity, duration and age."""
    band = (catalogue.wide.shape[1] * ndtr(scores[0])).astype(np.int64)
    tall, wide = catalogue.tall[category, band], catalogue.wide[category, band]
    wanted = catalogue.wanted_uploads
    rank = np.searchsorted(wanted, _wanted_upload(scores[2], delivered)) / (len(wanted) + 1)
    row, column = (tall * ndtr(scores[1])).astype(np.int64), (wide * rank).astype(np.int64)
    item = catalogue.start[category, band] + row * wide + column
    # One that was uploaded after the delivery has a sister, next in the grid, which was not.
    return np.asarray(item - ((catalogue.upload_day[item] > delivered) & (column > 0)))


def _write_items(path: Path, catalogue: Catalogue, seed: int) -> None:
    rng, c = np.random.default_rng([seed, 14]), catalogue
    leaves, first_leaf = _leaves()
    at = np.argsort(c.item_id)
    with path.open("wb") as file:
        _write_header(file, ITEM_COLUMNS)
        for begin in range(0, len(at), ITEMS_A_CHUNK):
            items = at[begin : begin + ITEMS_A_CHUNK]
            items = items[~c.missing[items]]
            category, n = c.category[items], len(items)
            leaf = rng.integers(first_leaf[category], first_leaf[category + 1])
            leaf[c.padding_category[items]] = len(leaves) - 1
            author = rng.integers(1, len(at) // 8 + 2, size=n)
            author[c.padding_author[items]] = 0
            day = np.where(c.padding_upload[items], 0, c.upload_day[items])
            caption = _token_lists(rng.integers(0, VOCABULARY, size=(n, 8)), rng.integers(2, 9, size=n))
            which = np.where(c.caption_large[items], n, np.arange(n))
            captions = pa.concat_arrays([caption, pa.array([_large_caption()])]).take(pa.array(which))
            columns = [
                _text(c.item_id[items]),
                _quoted(captions),
                _text(author),
                _pick(ITEM_TYPES, rng.choice(len(ITEM_TYPES), n, p=ITEM_TYPE_SHARES)),
                pa.array(day.astype(np.int32)).cast(pa.date32()).cast(pa.string()),
                _pick(UPLOAD_TYPES, rng.integers(len(UPLOAD_TYPES), size=n)),
                _pick(leaves, leaf),
            ]
            _write_rows(file, columns)


def _leaves() -> tuple[list[str], Ints]:
    """Four levels of id, name and English name of every kind of item, and the first kind of each category.

    A kind may end at its second or third level, with padding below it.  The last one is padding throughout.
    """
    leaves: list[str] = []
    first = []

    def grow(number: int, name: str, english: str, above: list[str]) -> None:
        levels = [*above, f"{number},{name},{english}"]
        if len(levels) > 1:
            leaves.append(",".join(levels + [PADDING_CATEGORY] * (4 - len(levels))))
        if len(levels) < 4:
            for child in range(1, 3 + number % 2):
                grow(100 * number + child, f"{name}{child}", f"{english} {child}", levels)

    for c, (name, english) in enumerate(CATEGORIES):
        first.append(len(leaves))
        grow(c + 1, name, english, [])
    return [*leaves, ",".join([PADDING_CATEGORY] * 4)], np.array([*first, len(leaves)])


def _large_caption() -> str:
    """Tens of kilobytes with everything in them that makes CSV hard to read."""
    return "[" + 'said "12, 34",\nand, "" again,\r\n' * 1_000 + "]"


# --- Recommendation ------------------------------------------------------------------------------------------


def _batches(rng: np.random.Generator, covariates: Array, events: float) -> Rows:
    """Deliveries' skeleton: user (a row of `covariates`), local time (ms) and size of each batch."""
    batch_size, cadence, night_share = covariates[:, 3:6].T
    users = len(covariates)
    days = (1 + rng.binomial(SLOTS - 1, rng.beta(4, 2, size=users))) * min(events, 1.0)
    days = np.maximum(_rounded(rng, days), 1)
    present = rng.random((users, SLOTS)).argsort(1) < days[:, None]
    user, slot = np.nonzero(present)
    a_day = np.maximum(np.exp(CADENCE[0] + CADENCE[1] * cadence) * max(events, 1.0), 1)
    batches = 1 + rng.poisson(a_day[user] - 1)
    user, slot = user.repeat(batches), slot.repeat(batches)
    night = _evenly(rng, user, sigmoid(NIGHT_SHARE[0] + NIGHT_SHARE[1] * night_share))
    size = 1 + rng.poisson(np.exp(BATCH_SIZE[0] + BATCH_SIZE[1] * batch_size)[user])
    return {"user": user, "local": _moments(rng, slot, night), "size": size}


def _evenly(rng: np.random.Generator, user: Ints, share: Array) -> Mask:
    """Mark each user's share of their rows (which are contiguous), evenly spread."""
    place = np.arange(len(user)) - np.searchsorted(user, user)
    ahead = rng.random(len(share))[user] + share[user] * place
    return np.asarray(np.floor(ahead + share[user]) > np.floor(ahead))


def _moments(rng: np.random.Generator, slot: Ints, night: Mask) -> Ints:
    """Local times in ms: 0-6 h at night, else mostly in the evening.

    Slot 0 is the first date after the window opens and the last date before it closes.
    """
    n = len(slot)
    hour = np.where(night, 6 * rng.random(n), 6 + 18 * rng.beta(2, 1.5, size=n))
    parts = slot == 0
    hour[parts & (hour >= CLOSES) & (hour < OPENS)] += 7  # between the two parts: later that evening
    day = np.where(parts & (hour < CLOSES), SLOTS, slot)
    return np.asarray((FIRST_DATE + day) * DAY + (hour * (DAY / 24)).astype(np.int64))


def _deliveries(
    rng: np.random.Generator, population: Population, users: slice, catalogue: Catalogue, events: float
) -> Rows:
    """The rows of some users, without quirks; `user` is the position in the population."""
    covariates = population.exposure_covariates[users]
    batches = _batches(rng, covariates, events)
    batch = np.arange(len(batches["size"])).repeat(batches["size"])
    user, local = batches["user"][batch], batches["local"][batch]
    category = _draw_categories(rng, user, population.exposure[users])
    scores = PULL * covariates[user, :3].T + np.sqrt(1 - PULL**2) * rng.normal(size=(3, len(user)))
    item = _items_at(catalogue, category, scores, local / DAY)
    # A batch does not show an item twice.
    kept = np.sort(np.unique(batch * len(catalogue.category) + item, return_index=True)[1])
    rows = {"user": user, "item": item, "local": local, "category": category}
    rows = _take(rows, kept)
    n = len(kept)
    click = rng.random(n) < population.engagement[users][rows["user"], rows["category"]]
    rare = rng.random((5, n))
    return rows | {
        "user": rows["user"] + users.start,
        "user_id": population.features["user_id"][users][rows["user"]],
        "duration": catalogue.duration[rows["item"]].astype(np.int64),
        "playing": _playing_time(rng, click, catalogue.duration[rows["item"]]),
        "click": click.astype(np.int64),
        "forward": (click & (rare[0] < 0.005)).astype(np.int64),
        "like": (click & (rare[1] < 0.04)).astype(np.int64),
        "follow": (click & (rare[2] < 0.008)).astype(np.int64),
        "search": (rare[3] < 0.03).astype(np.int64),
        "related": (rare[4] < 0.3).astype(np.int64),  # means something only where search is 1
    }


def _playing_time(rng: np.random.Generator, click: Mask, duration: NDArray[np.int32]) -> Ints:
    """Ms that agree with the click: the whole of an item of up to 7 s, or more than 7 s of a longer one."""
    short = duration <= CLICK_FROM
    least = np.where(short, duration, CLICK_FROM + 1)
    watched = least + (0.5 * duration * rng.exponential(size=len(click))).astype(np.int64)
    left = (least * rng.random(len(click))).astype(np.int64)
    return np.where(click, watched, left)


def _with_rec_quirks(planter: _Planter, rows: Rows, users: int) -> Rows:
    n = len(rows["user"])
    duplicated = _take(rows, planter.choose("rec_rows_duplicated", n))
    negative = _take(rows, planter.choose("rec_rows_negative_duration", n))
    negative |= {"duration": -negative["duration"], "local": negative["local"] + 1}
    unknown = _take(rows, planter.choose("rec_rows_unknown_user", n))
    return _concatenate([rows, duplicated, negative, unknown | {"user_id": _unknown(unknown, users)}])


def _write_deliveries(file: BinaryIO, rows: Rows, catalogue: Catalogue) -> None:
    columns = [
        _text(rows["user_id"]),
        _text(catalogue.item_id[rows["item"]]),
        _with_point(rows["duration"]),
        _with_point(rows["playing"]),
        _with_point(rows["local"] - BEIJING),
        *(_text(rows[name]) for name in ("forward", "like", "follow", "related", "search", "click")),
        _clock(rows["local"]),
    ]
    _write_rows(file, columns)


# --- Search --------------------------------------------------------------------------------------------------


def _sessions(rng: np.random.Generator, covariates: Array, pool: int, events: float) -> Rows:
    """Search sessions: user (a row of `covariates`), local time (ms), source and keyword (of `pool`)."""
    rate, breadth = covariates[:, :2].T
    a_day = np.exp(QUERY_RATE[0] + QUERY_RATE[1] * rate) - 1
    typed = np.maximum(_rounded(rng, events * WINDOW_DAYS * a_day), max(round(3 * events), 1))
    share = np.exp(QUERY_BREADTH[0] + QUERY_BREADTH[1] * breadth)
    distinct = np.clip(_rounded(rng, typed * share), 1, typed)
    suggested = rng.poisson(12 * events, size=len(covariates))
    user = np.arange(len(covariates)).repeat(typed)
    place = np.arange(len(user)) - np.searchsorted(user, user)
    again = (distinct[user] * rng.random(len(user))).astype(np.int64)
    which = np.where(place < distinct[user], place, again)
    stride = 7_919 if pool % 7_919 else 7_907  # prime: a user's keywords are distinct
    own = (rng.integers(pool, size=len(covariates))[user] + stride * which) % pool
    others = np.arange(len(covariates)).repeat(suggested)
    popular = (pool * rng.random(len(others)) ** 4).astype(np.int64)
    source = rng.integers(1, len(SOURCES), size=len(others))
    n = len(user) + len(others)
    return {
        "user": np.concatenate([user, others]),
        "local": _moments(rng, rng.integers(SLOTS, size=n), rng.random(n) < 0.2),
        "source": np.concatenate([np.zeros_like(user), source]),
        "keyword": np.concatenate([own, popular]),
        "broken": np.zeros(n, bool),
        "clicked": rng.random(n) < 0.6,
    }


def _results(
    rng: np.random.Generator, population: Population, users: slice, catalogue: Catalogue, sessions: Rows
) -> Rows:
    """The rows of sessions (of some users), without quirks of rows; `user` is the position in the population."""
    size = np.minimum(1 + rng.poisson(3.9, size=len(sessions["user"])), MOST_RESULTS)
    session = np.arange(len(size)).repeat(size)
    n, place = len(session), np.arange(size.sum()) - (np.cumsum(size) - size)[session]
    sure = (size * rng.random(len(size))).astype(np.int64)[session] == place  # a click if there are any
    click = sessions["clicked"][session] & (sure | (rng.random(n) < 0.15))
    kind = rng.choice(len(SEARCH_TYPES), n, p=SEARCH_TYPE_SHARES)
    first = catalogue.first
    sought = _draw_categories(rng, sessions["user"][session], population.search[users])
    category = np.where(click, sought, rng.choice(len(CATEGORIES), n, p=np.diff(first) / first[-1]))
    # Neighbours in the catalogue, so that a session does not show an item twice.
    base = rng.integers(first[-1], size=len(size))[session] + place
    item = first[category] + base % np.diff(first)[category]
    return _take(sessions, session) | {
        "user": sessions["user"][session] + users.start,
        "user_id": population.features["user_id"][users][sessions["user"][session]],
        "kind": kind,
        "category": category,
        "item": np.where(kind < CATALOGUED_TYPES, item, -1 - base % (first[-1] // 4)),  # below 0: not an item
        "click_cnt": click * (1 + rng.poisson(0.2, size=n)),
    }


def _with_session_quirks(planter: _Planter, sessions: Rows) -> Rows:
    ids, broken = sessions["id"].copy(), sessions["broken"].copy()
    recurring = planter.choose("src_session_ids_recurring", len(ids))
    others = np.setdiff1d(np.arange(len(ids)), recurring)
    ids[recurring] = ids[planter.rng.choice(others, len(recurring))]
    broken[planter.choose("src_keywords_broken", np.flatnonzero(~sessions["clicked"]))] = True
    return sessions | {"id": ids, "broken": broken}


def _with_src_quirks(planter: _Planter, rows: Rows, users: int) -> Rows:
    n = len(rows["user"])
    duplicated = _take(rows, planter.choose("src_rows_duplicated", n))
    conflicting = _take(rows, planter.choose("src_rows_conflicting", np.flatnonzero(rows["click_cnt"])))
    conflicting |= {"click_cnt": np.zeros_like(conflicting["click_cnt"])}
    unknown = _take(rows, planter.choose("src_rows_unknown_user", n))
    unknown |= {"user_id": _unknown(unknown, users), "id": unknown["id"] + 1}  # a session of their own
    return _concatenate([rows, duplicated, conflicting, unknown])


def _write_results(file: BinaryIO, rows: Rows, catalogue: Catalogue, keywords: pa.Array) -> None:
    keyword = keywords.take(pa.array(rows["keyword"]))
    cut = pc.utf8_slice_codeunits(keyword, 0, -1)  # the closing bracket is lost
    known = rows["item"] >= 0
    item_id = np.where(known, catalogue.item_id[rows["item"] * known], OTHER_ITEMS_FROM - rows["item"])
    columns = [
        _quoted(pc.if_else(pa.array(rows["broken"]), cut, keyword)),
        _text(item_id),
        _text(rows["click_cnt"]),
        _text(rows["id"]),
        _pick(SEARCH_TYPES, rows["kind"]),
        _text(rows["user_id"]),
        _text(rows["local"] - BEIJING),
        _pick(SOURCES, rows["source"]),
        _clock(rows["local"]),
    ]
    _write_rows(file, columns)


# --- The files -----------------------------------------------------------------------------------------------

USER_COLUMNS = ("user_id", "onehot_feat1", "onehot_feat2", "search_active_level", "rec_active_level")
REC_COLUMNS = (
    *("user_id", "item_id", "duration_ms", "playing_time", "timestamp", "forward", "like", "follow"),
    *("search_item_related", "search", "click", "time"),
)
SRC_COLUMNS = (
    *("keyword", "item_id", "click_cnt", "search_session_id", "item_type", "user_id"),
    *("search_session_timestamp", "search_source", "search_session_time"),
)
ITEM_COLUMNS = (
    *("item_id", "caption", "author_id", "item_type", "upload_time", "upload_type"),
    *(
        f"{level}_level_category_{part}"
        for level in ("first", "second", "third", "fourth")
        for part in ("id", "name", "name_en")
    ),
)


def _write_users(folder: Path, population: Population, seed: int) -> None:
    """``user_features.csv``, and ``social_network.csv`` with the few users who follow another."""
    rng, user_id = np.random.default_rng([seed, 15]), population.features["user_id"]
    with (folder / "user_features.csv").open("wb") as file:
        _write_header(file, USER_COLUMNS)
        _write_rows(file, [_text(population.features[name]) for name in USER_COLUMNS])
    follower = rng.choice(len(user_id), max(round(0.0223 * len(user_id)), 1), replace=False)
    follower = follower.repeat(rng.integers(1, 4, size=len(follower)))
    followed = (follower + rng.integers(1, len(user_id), size=len(follower))) % len(user_id)
    pairs = np.unique(np.stack([user_id[follower], user_id[followed]], 1), axis=0)
    with (folder / "social_network.csv").open("wb") as file:
        _write_header(file, ("user_id", "user_follow_id"))
        _write_rows(file, [_text(pairs[:, 0]), _text(pairs[:, 1])])


def _write_events(
    folder: Path,
    population: Population,
    catalogue: Catalogue,
    tally: _Tally,
    seed: int,
    quirks: bool,
    events: float,
    progress: bool,
) -> None:
    """``rec_inter.csv`` and ``src_inter.csv``, some users at a time, their rows mixed; and count."""
    users = len(population.factors)
    keywords = _keywords(np.random.default_rng([seed, 16]), users * KEYWORDS_A_USER)
    starts = range(0, users, USERS_A_CHUNK)
    with (folder / "rec_inter.csv").open("wb") as rec, (folder / "src_inter.csv").open("wb") as src:
        _write_header(rec, REC_COLUMNS)
        _write_header(src, SRC_COLUMNS)
        for chunk, start in enumerate(tqdm(starts, "users' logs", disable=not progress)):
            some = slice(start, min(start + USERS_A_CHUNK, users))
            rng = np.random.default_rng([seed, 17, chunk])
            planter = _Planter(np.random.default_rng([seed, 18, chunk]), tally.quirks, quirks, chunk == 0)

            rows = _deliveries(rng, population, some, catalogue, events)
            _count(tally.exposure, rows, catalogue.has_category[rows["item"]])
            _count(tally.engagement, rows, catalogue.has_category[rows["item"]] & (rows["click"] == 1))
            rows = _with_rec_quirks(planter, rows, users)
            tally.quirks["rec_rows_item_missing"] += int(catalogue.missing[rows["item"]].sum())
            _write_deliveries(rec, _mixed(rng, rows), catalogue)

            sessions = _sessions(rng, population.preference_covariates[some], len(keywords), events)
            # Even numbers: the odd ones are for users whom nobody knows.
            sessions["id"] = chunk * SESSIONS_A_CHUNK + 2 * rng.permutation(len(sessions["user"]))
            sessions = _with_session_quirks(planter, sessions)
            rows = _results(rng, population, some, catalogue, sessions)
            counted = (rows["click_cnt"] > 0) & (rows["source"] == 0) & (rows["item"] >= 0)
            _count(tally.search, rows, counted & catalogue.has_category[rows["item"]])
            rows = _with_src_quirks(planter, rows, users)
            lost = catalogue.missing[rows["item"]] & (rows["item"] >= 0)
            tally.quirks["src_rows_item_missing"] += int(lost.sum())
            _write_results(src, _mixed(rng, rows), catalogue, keywords)


def _write_truth(folder: Path, population: Population, tally: _Tally, seed: int, events: float) -> None:
    searches, shown = tally.search.sum(1), tally.exposure.sum(1)
    design = replace(
        population.world.design,
        search_events=(int(searches.min()), int(searches.max())),
        recommendation_events=(int(shown.min()), int(shown.max())),
    )
    world = replace(population.world, design=design)
    counts = (a.astype(float) for a in (tally.search, tally.exposure, tally.engagement))
    covariates = population.exposure_covariates, population.preference_covariates
    sim = Simulation(world, *covariates, population.noise, population.factors, *counts)
    content = truth_arrays(
        sim,
        population.features["user_id"].astype(str),
        exposure_covariates=covariates[0],
        preference_covariates=covariates[1],
        search=tally.search.astype(np.int32),
        exposure=tally.exposure.astype(np.int32),
        engagement=tally.engagement.astype(np.int32),
    )
    (folder / "truth.npz").write_bytes(content)
    effects = [
        true_effects(sim, {f"exposure_{d + 1}": 1.0}) | {"shift": {name: 1.0}}
        for d, name in enumerate(EXPOSURE_COVARIATES)
    ]
    truth = {
        "seed": seed,
        "events": events,
        "design": asdict(design),
        "edges": true_edges(sim),
        "exposure_covariates": EXPOSURE_COVARIATES,
        "preference_covariates": PREFERENCE_COVARIATES,
        "categories": [
            {"id": c + 1, "name": name, "name_en": english} for c, (name, english) in enumerate(CATEGORIES)
        ],
        "effects": effects,
        "quirks": {name: tally.quirks[name] for name in QUIRKS},
    }
    text = json.dumps(truth, indent=2, ensure_ascii=False)
    (folder / "truth.json").write_text(text + "\n", encoding="utf-8")


# --- Small parts ---------------------------------------------------------------------------------------------


def _standardised(columns: Array) -> Array:
    return np.asarray((columns - columns.mean(0)) / columns.std(0))


def _rounded(rng: np.random.Generator, values: NDArray[np.floating]) -> Ints:
    """Whole numbers of these means."""
    return np.floor(values + rng.random(len(values))).astype(np.int64)


def _draw_categories(rng: np.random.Generator, user: Ints, probability: Array) -> Ints:
    """One category per event, of the law ``(n, C)`` of its user."""
    categories = probability.shape[1]
    upto = np.cumsum(probability, 1)[:, :-1]  # what rounding leaves over is the last category's
    ladder = np.hstack([upto, np.ones((len(upto), 1))]) + np.arange(len(upto))[:, None]
    rung = np.searchsorted(ladder.ravel(), user + rng.random(len(user)), side="right")
    return np.minimum(rung - categories * user, categories - 1)


def _count(counts: Ints, rows: Rows, counted: Mask) -> None:
    cell = rows["user"][counted] * counts.shape[1] + rows["category"][counted]
    counts += np.bincount(cell, minlength=counts.size).reshape(counts.shape)


def _take(rows: Rows, places: Ints) -> Rows:
    return {name: column[places] for name, column in rows.items()}


def _concatenate(parts: Sequence[Rows]) -> Rows:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _unknown(rows: Rows, users: int) -> Ints:
    """Ids of a few users who have no features, in place of those who have."""
    return np.asarray(users + 1 + rows["user_id"] % (users // 50 + 1))


def _mixed(rng: np.random.Generator, rows: Rows) -> Rows:
    return _take(rows, rng.permutation(len(rows["user"])))


def _keywords(rng: np.random.Generator, size: int) -> pa.Array:
    """Distinct keywords: the first token of each is its own."""
    tokens = rng.integers(size, size + VOCABULARY, size=(size, 5))
    tokens[:, 0] = np.arange(size)
    return _token_lists(tokens, rng.integers(1, 6, size=size))


def _token_lists(tokens: Ints, lengths: Ints) -> pa.Array:
    """``(n, most)`` tokens, of which each list has its length, as text such as ``[12, 345]``."""
    used = np.arange(tokens.shape[1]) < lengths[:, None]
    ends = np.append(0, np.cumsum(lengths)).astype(np.int32)
    joined = pc.binary_join(pa.ListArray.from_arrays(ends, _text(tokens[used])), ", ")
    return pc.binary_join_element_wise("[", joined, "]", "")


def _text(values: NDArray[Any]) -> pa.Array:
    return pa.array(values).cast(pa.string())


def _with_point(values: Ints) -> pa.Array:
    """Whole numbers as floating-point text, ``7.0``."""
    return pc.binary_join_element_wise(_text(values), "0", ".")


def _clock(local: Ints) -> pa.Array:
    return pa.array(local // 1_000, pa.timestamp("s")).cast(pa.string())


def _pick(names: Sequence[str], which: Ints) -> pa.Array:
    return pa.array(names).take(pa.array(which))


def _quoted(values: pa.Array) -> pa.Array:
    """In quotes where CSV needs them."""
    doubled = pc.replace_substring(values, '"', '""')
    return pc.if_else(
        pc.match_substring_regex(values, '[",\r\n]'),
        pc.binary_join_element_wise('"', doubled, '"', ""),
        values,
    )


def _write_header(file: BinaryIO, names: Sequence[str]) -> None:
    file.write((",".join(names) + "\n").encode())


def _write_rows(file: BinaryIO, columns: Sequence[pa.Array]) -> None:
    """Lines of CSV.  pyarrow's own writer would put every text in quotes, which the real files do not."""
    lines = pc.binary_join_element_wise(pc.binary_join_element_wise(*columns, ","), "", "\n")
    file.write(lines.buffers()[2])
