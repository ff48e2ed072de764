"""FINN.no's slates: a public dataset with both surfaces, made into a dataset folder.

:func:`import_finn` does it in one step, :func:`read_finn` gives the steps and the items shown, and
:func:`write_finn_copy` writes small files of the same format.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
