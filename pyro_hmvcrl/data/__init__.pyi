from .dataset import CHANNELS as CHANNELS
from .dataset import Dataset as Dataset
from .dataset import Standardisation as Standardisation
from .folder import read_dataset as read_dataset
from .folder import write_dataset as write_dataset
from .tables import DatasetError as DatasetError
