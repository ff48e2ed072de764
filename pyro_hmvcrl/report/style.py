"""How figures look, and the names that figures and tables share."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure, FigureBase
from numpy.typing import NDArray

from pyro_hmvcrl.data.names import level_words
from pyro_hmvcrl.inference.writing import printable

Array = NDArray[np.float64]
Mechanisms = Mapping[str, Mapping[str, Any]]
Effects = Mapping[str, Any]  #: what effects.json holds
P = ParamSpec("P")
NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")  #: characters that no XML may hold
HUES = {"platform": "#0072B2", "preference": "#D55E00"}
INK, QUIET, RULE = "#24292f", "#818b96", "#d5dae0"
STYLE = {
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.labelsize": 8.5,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    **{
        f"{axis}tick.{part}": value for axis in "xy" for part, value in (("color", QUIET), ("labelsize", 7.5))
    },
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.parse_math": False,  # a name may have dollars in it
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.hashsalt": "pyro_hmvcrl",  # the same run gives the same file
}
DPI = 200  #: of a png
Z90 = 1.645  #: half-width, in standard deviations, of a 90% interval
SHOWN_COVARIATES = 15  #: a channel's strongest; more would not be readable
SHOWN_USERS = 2000  #: dots in a panel; lines, bands and correlations use all users
INTERVAL = ("mean", "lower", "upper")  #: parts of an estimate
ESTIMANDS = {"TE": "total (TE)", "NDE": "direct (NDE)", "NIE": "through the factors (NIE)"}
ESTIMANDS |= {"NIE_platform": "NIE by platform", "NIE_preference": "NIE by preference"}
ESTIMANDS |= {"NIE_loop": "NIE by the loop"}
SURFACES = {"searched": "what users search for", "shown": "what they are shown"}  #: of an answer by category
PARTS = {"TE": INK, "NDE": "#009E73", "NIE": "#AA4499"}
LEVELS = {"good": ("o", INK), "care": ("D", "white"), "no": ("X", "#D55E00")}  #: marker and fill of a check
VERDICTS = {"good": "passes", "care": "fails, by little", "no": "fails"}  #: of a check
PROBABILITIES = {"engagement": "P(engaged)", "alignment": "P(searched for)"}  #: shown in percentage points


def estimands_in(answer: Effects) -> dict[str, str]:
    """What an answer's effects are and how they are called: with one period there is no loop."""
    loop = len(answer["course"]["period"]) > 1
    return {name: words for name, words in ESTIMANDS.items() if loop or name != "NIE_loop"}


def levels_in_words(answers: Mapping[str, Effects]) -> str:
    """The level of the answers' intervals; of several levels, that of each."""
    levels = {name: level_words(of["level"]) for name, of in answers.items()}
    same = len({*levels.values()}) == 1
    return next(iter(levels.values())) if same else ", ".join(f"{of} ({name})" for name, of in levels.items())


def to_bytes(figure: Figure, kind: str) -> bytes:
    """The figure as a ``png`` or ``svg`` file.

    By the canvas's own method: ``savefig`` draws everything once more beforehand, for a box that is not asked for.
    """
    buffer = io.BytesIO()
    figure.set_dpi(DPI)
    with matplotlib.rc_context(STYLE):
        if kind == "png":
            FigureCanvasAgg(figure).print_png(buffer)
            return buffer.getvalue()
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    return NOT_XML.sub("\ufffd", buffer.getvalue().decode()).encode()  # names stand in comments


def label(name: str, width: int = 24) -> str:
    """A factor's or covariate's name as shown: no underscores, cut at `width` characters."""
    text = printable(str(name)).replace("_", " ")
    return text if len(text) <= width else text[: width - 1] + "…"


def named(factor: str, labels: Mapping[str, str], width: int = 44) -> str:
    """A factor with its label, where it has one, cut at `width` characters.

    Examples
    --------
    >>> named("preference_3", {"preference_3": "westerns against cars"}), named("platform_1", {"platform_1": ""})
    ('preference 3: westerns against cars', 'platform 1')
    """
    in_words = labels.get(factor)
    return label(f"{factor}: {in_words}" if in_words else factor, width)


def labels_in(effects: Effects) -> dict[str, str]:
    """The factors' labels that an answer holds."""
    return {factor: of.get("label") or "" for factor, of in effects["displacement"].items()}


def most_moved(effects: Effects, most: int) -> list[str]:
    """Categories of an answer whose share of what is searched or shown moves most, the most moved first."""
    of = effects["categories"]
    size = {c: max(abs(of[c][surface]["change"]["mean"]) for surface in SURFACES) for c in of}
    return sorted(size, key=lambda c: -size[c])[:most]


def strongest(mechanisms: Mechanisms, factor: str, *parts: str) -> str:
    """The covariate that moves `parts` (location, log_scale) of a factor most; empty if there is none."""
    mechanism, k = mechanisms[channel_of(factor)], int(factor.rpartition("_")[2]) - 1
    strength = {c: sum(mechanism[p][i][k] ** 2 for p in parts) for i, c in enumerate(mechanism["covariates"])}
    return max(strength, key=lambda name: strength[name], default="")


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw in this package's style; a notebook shows the figure, without pyplot too."""

    @wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.rc_context(STYLE):
            figure = draw(*args, **kwargs)
        figure._repr_png_ = lambda: to_bytes(figure, "png")
        return figure

    return styled


def outcome_scale(outcome: str) -> float:
    """By what an outcome is multiplied to be shown: probabilities in percentage points, others as they are."""
    return 100.0 if outcome in PROBABILITIES else 1.0


def curve_of(intervals: Sequence[Mapping[str, float]], scale: float) -> Array:
    """Mean, lower and upper end, ``(3, n)``."""
    return scale * np.array([[e[part] for e in intervals] for part in ("mean", "lower", "upper")])


def hue_of(key: str) -> str:
    """Of an estimand, a factor or a path: its channel's; a path's is its source's."""
    first = key.removeprefix("NIE_").partition(" -> ")[0]
    if first == "loop":
        return QUIET
    return HUES.get(first) or HUES.get(channel_of(first)) or PARTS[key]


def signed(value: float) -> str:
    """A number with its sign and two decimals."""
    return f"{value:+z.2f}".replace("-", "−")


def plain(value: float) -> str:
    """A number as short as it goes."""
    return f"{value:g}".replace("-", "−")


def channel_of(factor: str) -> str:
    """A factor's channel."""
    return factor.rpartition("_")[0]


def by_channel(factors: Sequence[str]) -> list[list[str]]:
    """The factors of each channel."""
    return [[f for f in factors if channel_of(f) == channel] for channel in HUES]


def factor_columns(factors: Iterable[str]) -> list[str]:
    """The factors among these names (of a table's columns), platform first."""
    named = [c for c in factors if c.rpartition("_")[2].isdigit()]
    return [name for own in by_channel(named) for name in own]


def panel_rows(factors: Sequence[str], longest: int = 5) -> list[list[str]]:
    """Factors in rows of panels, each row of one channel."""
    return [own[i : i + longest] for own in by_channel(factors) for i in range(0, len(own), longest)]


def panel_grid(parent: FigureBase, rows: Sequence[Sequence[Any]]) -> dict[Any, Axes]:
    """An axes for every key, rows centred; None leaves its place empty."""
    widest = max(map(len, rows))
    grid = parent.add_gridspec(len(rows), 2 * widest)
    axes = {}
    for r, row in enumerate(rows):
        for i, key in enumerate(row):
            start = widest - len(row) + 2 * i
            if key is not None:
                axes[key] = parent.add_subplot(grid[r, start : start + 2])
    return axes


def some_of(values: Any, seed: int = 0) -> Any:
    """At most `SHOWN_USERS` of these, drawn at random."""
    return np.random.default_rng(seed).permutation(values)[:SHOWN_USERS]
