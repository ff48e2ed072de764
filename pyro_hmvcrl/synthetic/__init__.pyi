from .design import Design as Design, SUBSTITUTION as SUBSTITUTION
from .folder import write_simulation as write_simulation
from .simulation import Simulation as Simulation, simulate as simulate
from .truth import true_edges as true_edges, true_effects as true_effects
from .world import World as World, draw_world as draw_world
