"""The report: a run folder as one page, with its figures.

:func:`write_report` draws them and writes ``report.html``, self-contained, from the files of the run folder alone.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
