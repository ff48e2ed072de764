"""Inference: from logs to a fitted model and guide, and the posterior over its parameters.

:mod:`~pyro_hmvcrl.inference.svi` tells the whole of it; the bound, a stage of training and its checkpoints, the
Laplace posterior, and work on several processes or a GPU are its parts.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
