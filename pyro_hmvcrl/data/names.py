"""Names in a dataset: which mean something else here, which look alike, and how long ones are said."""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Context, Decimal, InvalidOperation

import pandas as pd

MOST_SAID = 60  #: characters of a value in a message
MOST_NAMED = 12  #: names in a message
#: Channels, factors (and their columns in a run folder) and sites of the model, to which an intervention may be put.
RESERVED = re.compile(
    r"user_id|(?:platform|preference)(?:_\d+(?:_sd|_true)?)?|held_out|outside|noise|readiness|history|search|exposure|engagement"
    r"|suggested|(?:exposure|preference)_covariates|(?:history|search|suggested|engagement)_\d+"
)
#: Further names that an outcome cannot have: they stand beside it in tables and answers, or are the model's.
TAKEN = {"timestamp", "category", "engaged", "alignment", "period", "size", "reliability", "surface"}
TAKEN |= {"f_search", "f_exposure", "f_suggested"}
OUTCOME = re.compile("[A-Za-z][A-Za-z0-9_]{0,39}")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?")
INTEGER, WHOLE = (
    r"-?(?:0|[1-9][0-9]*)",
    r"(-?[0-9]+)\.0",
)  #: the latter: of a column that was once one of floats
DASHES = "[\u2010-\u2015\u2212]"
THOUSANDS = r"[+-]?\d{1,3}([,'’]\d{3})+(\.\d+)?"
UNSEEN = r"[\s\u00ad\u200b-\u200f\u2060\ufeff]+"  #: spaces, and characters without width


def reserved_among(names: Iterable[str]) -> str | None:
    """The first of covariates' names that means something else here, or looks as if it did.

    Examples
    --------
    >>> reserved_among(["platform_share", "Platform", "platform_1"]), reserved_among(["exposure_1"])
    ('Platform', None)
    """
    given = pd.Series([*names], dtype="str")
    taken = _forms(given).str.fullmatch(RESERVED.pattern)
    return None if not taken.any() else str(given[taken].iloc[0])


def outcome_problem(names: Iterable[str]) -> str | None:
    """What keeps these from being names of outcomes, if something does.

    Examples
    --------
    >>> outcome_problem(["liked", "next_day"]), outcome_problem(["engaged"])
    (None, "'engaged' means something else here; rename it")
    """
    for name in names:
        if not OUTCOME.fullmatch(name):
            return f"{short(name)} is no name of letters, digits and underscores; rename it"
        if name.lower() in TAKEN or reserved_among([name]):
            return f"{short(name)} means something else here; rename it"
    return None


def short(value: object, most: int = MOST_SAID) -> str:
    """What a message says of a value, however long it is."""
    said = repr(value) if not isinstance(value, str) or len(value) <= most else repr(value[:most]) + "..."
    return said if len(said) <= 2 * most else said[: 2 * most] + "..."


def percent(share: float) -> str:
    """A share with one decimal; one that is not none is never said to be none, nor one that is not all to be all.

    Examples
    --------
    >>> percent(0.0), percent(0.0003), percent(0.0571), percent(0.9998), percent(1.0)
    ('0%', 'under 0.1%', '5.7%', 'over 99.9%', '100%')
    """
    if share in (0, 1):
        return f"{share:.0%}"
    return "under 0.1%" if share < 0.001 else "over 99.9%" if share > 0.999 else f"{share:.1%}"


def listed(names: Iterable[object]) -> str:
    """The first of these names, and how many more there are."""
    cut = [name if len(name) <= MOST_SAID else f"{name[:MOST_SAID]}..." for name in map(str, names)]
    cut = [name if name.isprintable() else repr(name)[1:-1] for name in cut]  # a terminal obeys what is not
    more = len(cut) - MOST_NAMED
    return ", ".join(cut[:MOST_NAMED]) + (f" and {more:,} more" if more > 0 else "")


def level_words(level: float) -> str:
    """The level of an interval in percent, with its decimals.

    Examples
    --------
    >>> level_words(0.9), level_words(0.995)
    ('90%', '99.5%')
    """
    return f"{100 * level:.4g}%"


def plain(labels: pd.Index) -> pd.Index:
    """Labels without the ".0" of integers that were saved as floats, if all of them are whole numbers.

    Examples
    --------
    >>> plain(pd.Index(["1.0", "2.0"], dtype="str")).tolist(), plain(pd.Index(["1.0", "1.5"], dtype="str")).tolist()
    (['1', '2'], ['1.0', '1.5'])
    """
    floats = labels.str.fullmatch(WHOLE)
    if not floats.any() or not (floats | labels.str.fullmatch(INTEGER)).all():
        return labels
    without = labels.str.replace(r"\.0$", "", regex=True)
    return without if without.is_unique else labels


def look_alikes(labels: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs that differ in case, spaces, the form of a number or Unicode's normal form only.

    Examples
    --------
    >>> look_alikes(["1", "a", "b", "A ", "1.0"])
    [('1', '1.0'), ('A ', 'a')]
    """
    distinct = pd.Series(sorted(set(labels)), dtype="str")
    if distinct.str.fullmatch(INTEGER).all():
        return []
    forms = _forms(distinct)
    several = forms.duplicated(keep=False)
    return [(a.iloc[0], a.iloc[1]) for _, a in distinct[several].groupby(forms[several], sort=False)]


def like(label: str, known: Iterable[str]) -> str | None:
    """The one of the known that looks like a label which is not among them."""
    both = pd.Series([label, *known], dtype="str")
    forms = _forms(both)
    found = both[1:][(forms == forms.iloc[0]).to_numpy()[1:]]
    return None if found.empty else str(found.iloc[0])


def _forms(labels: pd.Series) -> pd.Series:
    """What is left of labels without the differences that the eye passes over."""
    forms = labels.str.normalize("NFKC").str.casefold().str.normalize("NFKC")
    forms = forms.str.replace(UNSEEN, "", regex=True).str.replace(DASHES, "-", regex=True)
    grouped = forms.str.fullmatch(THOUSANDS).to_numpy(bool)
    forms = forms.mask(grouped, forms.str.replace(r"[,'’]", "", regex=True))
    numbers = forms.str.fullmatch(NUMBER.pattern).to_numpy(bool)
    return forms.mask(numbers, forms[numbers].map(_number))


def _number(text: str) -> str:
    try:
        return str(Context(prec=len(text) + 1).normalize(Decimal(text)))
    except (InvalidOperation, OverflowError):
        return text
