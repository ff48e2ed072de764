"""A generated copy of KuaiSAR: its files, its size and its quirks, with the truth beside them.

:func:`write_kuaisar_copy` writes it; its users, items, feed and searches are drawn one after the other.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
