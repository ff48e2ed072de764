from . import data as data
from . import evidence as evidence
from . import guide as guide
from . import inference as inference
from . import kuaisar as kuaisar
from . import queries as queries
from . import report as report
from . import run as run
from . import story as story
from . import synthetic as synthetic
from .data import Dataset as Dataset
from .data import DatasetError as DatasetError
from .data import from_frames as from_frames
from .data import import_files as import_files
from .data import import_finn as import_finn
from .data import import_yambda as import_yambda
from .data import read_dataset as read_dataset
from .data import write_dataset as write_dataset
from .door import Run as Run
from .door import Selection as Selection
from .door import fit as fit
from .door import load_run as load_run
from .door import select as select
from .inference import Settings as Settings
from .queries import OUTCOMES as OUTCOMES
from .queries import InterventionError as InterventionError
from .queries import Shift as Shift
from .queries import add as add
from .queries import set_to as set_to
from .report import Answer as Answer
from .run import RunError as RunError
from .synthetic import Design as Design
from .synthetic import simulate as simulate
from .synthetic import write_simulation as write_simulation

__version__: str
ROOMS: list[str]
