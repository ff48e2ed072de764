"""KuaiSAR: the public dataset with both surfaces, from its archive to a study.

Download, read, choose covariates, write a dataset folder, and hold a fit against the published figures;
``copy`` makes files like KuaiSAR's with the truth beside them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
