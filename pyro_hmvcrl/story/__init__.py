"""The story: the generative model of HMV-CRL as a Pyro program.

Open :mod:`~pyro_hmvcrl.story.model` first: it reads top to bottom as the story itself.  Beside it stand its parts
(mechanisms, graph, emissions), what it reads of logs, and the program under conditions.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
