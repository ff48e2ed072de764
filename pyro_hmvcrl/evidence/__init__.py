"""Evidence: what speaks for and against a fit, whatever is asked of it.

Measures of recovery and identifiability with their nulls, the verdict on a channel's factors, and posterior
predictive checks; draws for ArviZ.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
