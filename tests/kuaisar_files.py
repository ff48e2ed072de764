"""KuaiSAR's files in small, which several tests make and spoil in one place."""

from __future__ import annotations

import csv
import io
import zipfile

from pyro_hmvcrl.kuaisar.reading import LEVELS

DAY, HOUR = 86_400_000, 3_600_000
MIDNIGHT = 1_684_771_200_000  # 23 May 2023, 0:00 in Beijing

REC = "user_id,item_id,duration_ms,playing_time,timestamp,forward,like,follow,search_item_related,search,click,time"
SRC = "keyword,item_id,click_cnt,search_session_id,item_type,user_id,search_session_timestamp,search_source"
SRC += ",search_session_time"
USER = "user_id,onehot_feat1,onehot_feat2,search_active_level,rec_active_level"
TREE = [f"{level}_level_category_{part}" for level in LEVELS for part in ("id", "name", "name_en")]
ITEM = ",".join(["item_id", "caption", "author_id", "item_type", "upload_time", "upload_type", *TREE])


def shown(user, item, time=0, click=0, duration=8_000, playing=5):
    return [
        user,
        item,
        duration,
        playing,
        f"{MIDNIGHT + time}.0",
        0,
        0,
        0,
        0,
        0,
        click,
        "2023-05-23 00:00:00",
    ]


def result(user, item, time=0, click=1, keyword="[1, 2]", session=7, kind="VIDEO", source="USER_INPUT"):
    return [keyword, item, click, session, kind, user, f"{MIDNIGHT + time}.0", source, "2023-05-23 00:00:00"]


def item(n, category, upload="2023-05-20", kind="NORMAL"):
    """Of a category like (4, "美食", "Food")."""
    deeper = [part for level in (1, 2, 3) for part in (category[0] * 10**level, f"{category[1]}{level}", "")]
    return [n, '["a", 2]', 5, kind, upload, "ShortImport", *category, *deeper]


FOOD, CARS = (4, "美食", "Food"), (5, "汽车", "Cars")


def files():
    """Two users who both saw and searched, as rows; every test changes them."""
    return {
        "user_features.csv": (USER, [[1, 0, 2, 3, 1], [2, 1, 2, 6, 2]]),
        "item_features.csv": (ITEM, [item(10, FOOD), item(11, CARS), item(12, FOOD, "2023-05-13")]),
        "rec_inter.csv": (
            REC,
            [shown(1, 10, 0, 1), shown(1, 11), shown(1, 12, 7 * HOUR), shown(2, 11, DAY, 1, 2_000)],
        ),
        "src_inter.csv": (SRC, [result(1, 10), result(2, 11), result(2, 12, HOUR, click=2, keyword="[3]")]),
        "social_network.csv": ("user_id,user_follow_id", [[1, "[2, 9, 10]"]]),
    }


def text(header, rows):
    buffer = io.StringIO()
    buffer.write(header + "\n")
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def folder(path, tables):
    path.mkdir()
    for name, table in tables.items():
        (path / name).write_text(text(*table), encoding="utf-8")
    return path


def zipped(path, inside="", compression=zipfile.ZIP_STORED):
    """The tables of :func:`files` as an archive."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, table in files().items():
            archive.writestr(inside + name, text(*table))
    return path


def with_rows(name, *rows):
    tables = files()
    tables[name][1].extend(rows)
    return tables


def lost(data, file):
    return data.account.to_dict()[file]["dropped"]
