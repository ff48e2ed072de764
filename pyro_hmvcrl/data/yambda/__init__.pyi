from .copy import write_yambda_copy as write_yambda_copy
from .importing import import_yambda as import_yambda
from .listens import Listens as Listens
from .listens import read_yambda as read_yambda
