"""Synthetic logs: worlds that follow the story, of which everything is known.

A :class:`Design` names every knob; the true parameters, the oracle and the true effects stand beside the logs.
numpy only, and written apart from the model, so that each checks the other.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
