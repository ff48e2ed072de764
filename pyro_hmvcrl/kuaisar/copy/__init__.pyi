from .folder import write_kuaisar_copy as write_kuaisar_copy
