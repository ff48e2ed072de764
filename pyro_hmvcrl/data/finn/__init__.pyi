from .copy import write_finn_copy as write_finn_copy
from .importing import import_finn as import_finn
from .slates import Slates as Slates
from .slates import read_finn as read_finn
