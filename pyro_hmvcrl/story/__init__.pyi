from .emissions import CategoryDecoder as CategoryDecoder, CategoryEvents as CategoryEvents, EngagementEvents as EngagementEvents, engagement_logits as engagement_logits
from .graph import StructuralGraph as StructuralGraph
from .logs import Cohort as Cohort, Logs as Logs
from .mechanisms import location_scale as location_scale
from .model import HMVCRL as HMVCRL
from .programs import at as at, observe as observe
