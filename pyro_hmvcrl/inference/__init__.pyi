from .bound import UserELBO as UserELBO, user_bounds as user_bounds
from .laplace import ParameterPosterior as ParameterPosterior, laplace_posterior as laplace_posterior, score_to_the_mode as score_to_the_mode
from .settings import Settings as Settings
from .stage import Stage as Stage, optimise as optimise
from .svi import Fit as Fit, Screening as Screening, fit as fit, screen as screen
