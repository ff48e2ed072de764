"""Data: the dataset folder, from files on disk to checked counts in memory.

:func:`read_dataset` reads one and :func:`write_dataset` makes one; what is wrong with it is one error that names
file, column and row.  Nothing here knows of a model.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
