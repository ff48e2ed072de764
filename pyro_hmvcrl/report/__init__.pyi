from .answer import Answer as Answer
from .page import write_report as write_report
from .reading import ReportError as ReportError
from .validation import Validation as Validation
