"""Yambda: public listens of a music service, organic or recommended, made into a dataset folder.

:func:`import_yambda` does it in one step, :func:`read_yambda` gives the listens with their categories, and
:func:`write_yambda_copy` writes small files of the same format.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
