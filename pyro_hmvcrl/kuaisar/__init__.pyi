from .covariates import Covariate as Covariate
from .files import KuaisarError as KuaisarError
from .folder import write_kuaisar as write_kuaisar
from .logs import Kuaisar as Kuaisar
from .published import study as study
from .reading import read_kuaisar as read_kuaisar
