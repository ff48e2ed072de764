"""HMV-CRL: causal representation learning of recommender logs, in Pyro.

Modules are imported on first use: ``pyro_hmvcrl.dataset.read_dataset`` works after ``import pyro_hmvcrl``,
and only the modules that need torch bring it in.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module
from types import ModuleType

__version__ = "0.1.0"


def __dir__() -> list[str]:
    modules = (module.name for module in pkgutil.iter_modules(__path__))
    return ["__version__", *(name for name in modules if not name.startswith("_"))]


def __getattr__(name: str) -> ModuleType:
    if name in __dir__():
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
