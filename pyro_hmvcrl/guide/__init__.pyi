from .experts import Expert as Expert, PrecisionNormal as PrecisionNormal, Prior as Prior, product_of_experts as product_of_experts
from .guide import CoefficientPosterior as CoefficientPosterior, ExpansionGuide as ExpansionGuide, Guide as Guide
from .transformers import EventEncoder as EventEncoder, TransformerGuide as TransformerGuide
