from .dataset import CHANNELS as CHANNELS, Dataset as Dataset, Standardisation as Standardisation
from .folder import read_dataset as read_dataset, write_dataset as write_dataset
from .tables import DatasetError as DatasetError
