"""What the tests of KuaiSAR's files share."""

from __future__ import annotations

import pytest
from kuaisar_files import folder

from pyro_hmvcrl.kuaisar.reading import read_kuaisar


@pytest.fixture
def read(tmp_path):
    """Reads tables from a folder."""

    def reader(tables, **options):
        return read_kuaisar(folder(tmp_path / "KuaiSAR_final", tables), **options)

    return reader
