from .files import RunError as RunError
from .fitting import fit_dataset as fit_dataset
from .fitting import fit_folder as fit_folder
from .fitting import parameter_posterior as parameter_posterior
from .judge import Truth as Truth
from .judge import evaluate as evaluate
from .load import load_run as load_run
from .run import Run as Run
