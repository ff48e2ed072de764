from .answer import effects as effects, write_effects as write_effects
from .averages import Users as Users, average_effects as average_effects
from .interventions import InterventionError as InterventionError, Shift as Shift, add as add, hold as hold, parse_shift as parse_shift, set_to as set_to
from .mediation import Mediators as Mediators, OUTCOMES as OUTCOMES, natural_effects as natural_effects
from .population import Population as Population
