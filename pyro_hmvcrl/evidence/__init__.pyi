from .identifiability import ChannelEvidence as ChannelEvidence, IdentifiabilityReport as IdentifiabilityReport
from .measures import cross_r2 as cross_r2, mcc as mcc, rotation_null as rotation_null, weak_mcc as weak_mcc, within_covariate_mcc as within_covariate_mcc
from .predictive import predictive_checks as predictive_checks
from .to_arviz import inference_data as inference_data, save_netcdf as save_netcdf, summary as summary
