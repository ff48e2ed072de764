"""A fitted run: made of a dataset folder, kept in a run folder, and read again.

:func:`fit_folder` makes one, :func:`~pyro_hmvcrl.run.load.load_run` reads one, and a :class:`~pyro_hmvcrl.run.run.Run`
in memory encodes new logs.  A run folder appears whole or not at all; while a fit goes on, its checkpoints stand in a
hidden folder beside it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
