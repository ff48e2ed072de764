from .answer import Answer as Answer
from .answer_figures import frontier_plane as frontier_plane
from .page import write_report as write_report
from .reading import ReportError as ReportError
from .validation import Validation as Validation
