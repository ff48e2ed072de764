"""The items of the generated copy."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from pyro_hmvcrl.kuaisar.copy.laws import (
    BATCH_SIZE,
    CADENCE,
    FIRST_DATE,
    MOST_RESULTS,
    OPENS,
    PULL,
    SPREAD,
    VOCABULARY,
    WINDOW_DAYS,
)
from pyro_hmvcrl.kuaisar.copy.population import CATEGORIES, Ints, Mask, Population
from pyro_hmvcrl.kuaisar.copy.quirks import Planter
from pyro_hmvcrl.kuaisar.copy.rows import as_text, picked, quoted, token_lists, write_header, write_rows
from pyro_hmvcrl.synthetic.design import Array

PADDING_CATEGORY = "0,空,empty"
ITEMS_A_USER = 266.6  #: 6.9 million for KuaiSAR's 25,877 users
MOST_BANDS, ITEMS_A_BAND = 24, 1_000  #: at most, and at least
SKEW = 1.5  #: sd of log popularity over deliveries
MEDIAN_DURATION, DURATION_SD = 20_000, 0.8  #: ms, of its logarithm
MEDIAN_AGE, AGE_SD = 20, 1.0  #: days, of the logarithm of 1 + age
WANTED_UPLOADS = 50_000  #: of a category, that stand for all
USERS_A_CHUNK, ITEMS_A_CHUNK = 500, 400_000
ITEM_TYPES, ITEM_TYPE_SHARES = ("NORMAL", "AD", "PHOTO_SERIES"), (0.94, 0.04, 0.02)
UPLOAD_TYPES = ("LongImport", "ShortImport", "ShortCamera", "LongCamera", "PictureSet", "Web")


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
    offsets
        What a category adds to its items' scores of popularity, duration and age, ``(C, 3)``.
    wanted_uploads
        A sorted sample of each category of the time, in days since 1970, at which the item of a delivery should have
        been uploaded, ``(C, n)``.
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
    offsets: Array
    wanted_uploads: Array

    @cached_property
    def first(self) -> Ints:
        """First item of every category, and the number of items, ``(C + 1,)``."""
        return np.append(self.start[:, 0], len(self.category))

    @cached_property
    def has_category(self) -> Mask:
        return ~(self.missing | self.padding_category)


def draw_catalogue(planter: Planter, population: Population, items: int, seed: int) -> Catalogue:
    """About `items` items, so many in each category and band that a band's popularity is as its category has it.

    It does not hang on how many are shown the category: else one whose audience is shown popular items would have more
    popular ones, and the popularity that a user is shown would tell of the factors.
    """
    rng = np.random.default_rng([seed, 13])
    bands = int(np.clip(items // ITEMS_A_BAND, 4, MOST_BANDS))
    edges = ndtri(np.linspace(0, 1, bands + 1))  # of the popularity score, whose bands have equal deliveries
    rarity = np.diff(ndtr(edges + SKEW))  # log popularity is linear in the score
    offsets = _offsets(population, seed)
    wanted_items = _audience(population, offsets, edges) * rarity * np.exp(-SKEW * offsets[:, :1])
    wanted_items *= items / wanted_items.sum()
    wanted_items[:, 0] = np.maximum(wanted_items[:, 0], MOST_RESULTS)  # enough for a session of one category
    wide = np.maximum(np.rint(np.sqrt(wanted_items)), 1).astype(np.int64)
    tall = np.maximum(np.rint(wanted_items / wide), 1).astype(np.int64)
    size = (tall * wide).ravel()
    start = np.cumsum(size) - size
    block = np.repeat(np.arange(size.size), size)
    place = np.arange(size.sum()) - start[block]
    row, column = np.divmod(place, wide.ravel()[block])
    drawn, delivered = rng.normal(size=WANTED_UPLOADS), FIRST_DATE + _window_time(rng, WANTED_UPLOADS)
    wanted = np.sort(_wanted_upload(drawn + offsets[:, 2:], delivered), axis=1)
    category = block // bands
    upload = wanted[category, ((column + 0.5) / wide.ravel()[block] * WANTED_UPLOADS).astype(np.int64)]
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
        category=category.astype(np.int8),
        duration=np.rint(MEDIAN_DURATION * np.exp(DURATION_SD * (score + offsets[category, 1]))).astype(
            np.int32
        ),
        upload_day=np.floor(upload).astype(np.int32),
        item_id=item_id,
        missing=missing,
        padding_category=marked("items_padding_category"),
        padding_author=marked("items_padding_author"),
        padding_upload=marked("items_padding_upload"),
        caption_large=marked("items_caption_large"),
        offsets=offsets,
        wanted_uploads=wanted,
    )


def _offsets(population: Population, seed: int) -> Array:
    """Evenly spaced, dealt out anew for each score, and 0 on average over deliveries."""
    rng, even = np.random.default_rng([seed, 19]), np.linspace(-1, 1, len(CATEGORIES))
    offsets = np.stack([spread * rng.permutation(even) for spread in SPREAD], 1)
    return np.asarray(offsets - population.exposure.mean(0) @ offsets)


def scores_of(population: Population, users: slice, offsets: Array) -> Array:
    """Mean scores ``(users, 3)`` of what users are delivered, within a category.

    The ranking evens out what the user's categories add: on average over all of a user's deliveries the covariates are
    what was planted, and tell nothing of the factors.  Over any number of them, they go with the categories which these
    happen to be of.
    """
    return np.asarray(PULL * population.exposure_covariates[users, :3] - population.exposure[users] @ offsets)


def _audience(population: Population, offsets: Array, edges: Array) -> Array:
    """Expected deliveries in each category and band, ``(C, bands)``, in an arbitrary unit."""
    batch_size, cadence = population.exposure_covariates.T[3:5]
    popularity = scores_of(population, slice(None), offsets)[:, :1]
    deliveries = np.exp(CADENCE[1] * cadence) * (1 + np.exp(BATCH_SIZE[0] + BATCH_SIZE[1] * batch_size))
    upto = ndtr((edges - popularity) / np.sqrt(1 - PULL**2))
    return (deliveries[:, None] * population.exposure).T @ np.diff(upto, axis=1)


def _wanted_upload(score: Array, delivered: Array) -> Array:
    """Upload time of an item whose age has this normal score when delivered; both times in days."""
    return np.asarray(delivered - np.maximum((1 + MEDIAN_AGE) * np.exp(AGE_SD * score) - 1, 0))


def _window_time(rng: np.random.Generator, size: int) -> Array:
    """Times within the window, in days since the first date's midnight."""
    return OPENS / 24 + WINDOW_DAYS * rng.random(size)


def items_at(catalogue: Catalogue, category: Ints, scores: Array, delivered: Array) -> Ints:
    """The items of these categories that stand at these scores ``(3, n)`` of popularity, duration and age."""
    band = (catalogue.wide.shape[1] * ndtr(scores[0])).astype(np.int64)
    tall, wide = catalogue.tall[category, band], catalogue.wide[category, band]
    rank = _rank(
        catalogue.wanted_uploads,
        category,
        _wanted_upload(scores[2] + catalogue.offsets[category, 2], delivered),
    )
    row, column = (tall * ndtr(scores[1])).astype(np.int64), (wide * rank).astype(np.int64)
    item = catalogue.start[category, band] + row * wide + column
    # One that was uploaded after the delivery has a sister, next in the grid, which was not.
    return np.asarray(item - ((catalogue.upload_day[item] > delivered) & (column > 0)))


def _rank(wanted: Array, category: Ints, upload: Array) -> Array:
    """Share of its category's `wanted` uploads ``(C, n)`` that are before each."""
    n, apart = wanted.shape[1], 1e7  # days, farther than any upload
    ladder = wanted + apart * np.arange(len(wanted))[:, None]
    place = np.searchsorted(ladder.ravel(), upload + apart * category) - n * category
    return np.asarray(place / (n + 1))


def write_items(path: Path, catalogue: Catalogue, seed: int) -> None:
    """``item_features.csv``."""
    rng, c = np.random.default_rng([seed, 14]), catalogue
    leaves, first_leaf = _leaves()
    at = np.argsort(c.item_id)
    with path.open("wb") as file:
        write_header(file, ITEM_COLUMNS)
        for begin in range(0, len(at), ITEMS_A_CHUNK):
            items = at[begin : begin + ITEMS_A_CHUNK]
            items = items[~c.missing[items]]
            category, n = c.category[items], len(items)
            leaf = rng.integers(first_leaf[category], first_leaf[category + 1])
            leaf[c.padding_category[items]] = len(leaves) - 1
            author = rng.integers(1, len(at) // 8 + 2, size=n)
            author[c.padding_author[items]] = 0
            day = np.where(c.padding_upload[items], 0, c.upload_day[items])
            caption = token_lists(rng.integers(0, VOCABULARY, size=(n, 8)), rng.integers(2, 9, size=n))
            which = np.where(c.caption_large[items], n, np.arange(n))
            captions = pa.concat_arrays([caption, pa.array([_large_caption()])]).take(pa.array(which))
            columns = [
                as_text(c.item_id[items]),
                quoted(captions),
                as_text(author),
                picked(ITEM_TYPES, rng.choice(len(ITEM_TYPES), n, p=ITEM_TYPE_SHARES)),
                pa.array(day.astype(np.int32)).cast(pa.date32()).cast(pa.string()),
                picked(UPLOAD_TYPES, rng.integers(len(UPLOAD_TYPES), size=n)),
                picked(leaves, leaf),
            ]
            write_rows(file, columns)


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


ITEM_COLUMNS = (
    *("item_id", "caption", "author_id", "item_type", "upload_time", "upload_type"),
    *(
        f"{level}_level_category_{part}"
        for level in ("first", "second", "third", "fourth")
        for part in ("id", "name", "name_en")
    ),
)
