"""The guide: each user's posterior, as a product of Gaussian experts.

:mod:`~pyro_hmvcrl.guide.experts` has their algebra, :mod:`~pyro_hmvcrl.guide.guide` the guide and the experts that
need no learning, :mod:`~pyro_hmvcrl.guide.transformers` those that are learned.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
