"""Events come in parts of seven rows here, so that every claim holds across parts."""

from __future__ import annotations

import pytest

from pyro_hmvcrl.data import tables


@pytest.fixture(autouse=True)
def many_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "PART", 7)
