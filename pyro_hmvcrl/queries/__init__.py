"""Queries: what a change of the platform does, asked by ``pyro.do`` and ``pyro.condition``.

Interventions make worlds, mediation contrasts them, averages give intervals; :func:`effects` puts an answer
together with the checks that it needs to be believed.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
