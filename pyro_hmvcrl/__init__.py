"""HMV-CRL: causal representation learning of recommender logs, in Pyro; its names stand in ``__init__.pyi``.

Rooms, none of which imports from one after it: :mod:`~pyro_hmvcrl.story`, :mod:`~pyro_hmvcrl.data`,
:mod:`~pyro_hmvcrl.synthetic`, :mod:`~pyro_hmvcrl.guide`, :mod:`~pyro_hmvcrl.inference`, :mod:`~pyro_hmvcrl.evidence`,
:mod:`~pyro_hmvcrl.run`, :mod:`~pyro_hmvcrl.queries`, :mod:`~pyro_hmvcrl.report`, :mod:`~pyro_hmvcrl.kuaisar`.
"""

import lazy_loader

__version__ = "0.2.0"

ROOMS = [
    "story",
    "data",
    "synthetic",
    "guide",
    "inference",
    "evidence",
    "run",
    "queries",
    "report",
    "kuaisar",
]

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
