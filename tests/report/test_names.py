"""Claims about names in the report: whatever they hold, its pictures can be read."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from pyro_hmvcrl.report.run_figures import categories
from pyro_hmvcrl.report.style import label, to_bytes


@pytest.mark.parametrize("name", ["bell\x07", "\x1b[2J", "a--b", "<b>", "\x00", "\ufffe"])
@pytest.mark.filterwarnings("ignore:Glyph")
def test_a_picture_is_whole_whatever_a_name_holds(name):
    change = {name: {"mean": 0.1, "lower": 0.0, "upper": 0.2}}
    figure = categories({"platform_1": {"raised": [name], "lowered": [], "change": change}})
    figure.axes[0].set_title(name)
    ElementTree.fromstring(to_bytes(figure, "svg"))


def test_a_label_shows_what_cannot_be_seen():
    assert label("a\x1bb_c") == "a\\x1bb c"
