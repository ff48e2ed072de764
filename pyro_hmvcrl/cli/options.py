"""Arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pyro_hmvcrl.inference.settings import Settings

RunFolder = Annotated[Path, typer.Argument(help="A folder that fit has written.")]
DatasetFolder = Annotated[
    Path, typer.Argument(help="A dataset folder: dataset.json, users, search and feed events.")
]
KuaisarSource = Annotated[Path, typer.Argument(help="KuaiSAR's zip, or the folder of its files.")]
CategoryLevel = Annotated[str, typer.Option(help="Of the categories: first, second, third or fourth.")]
CovariatesShare = Annotated[
    float,
    typer.Option(
        help="Share of the window, its first part, in which covariates are measured; events are those of the rest. "
        "0: both of the whole window."
    ),
]
PlatformFactors = Annotated[int | None, typer.Option(help="Number of platform factors, or it is selected.")]
PreferenceFactors = Annotated[int | None, typer.Option(help="Number of preference factors; likewise.")]
Restarts = Annotated[int, typer.Option(help="Random starts, of which the one with the best bound is kept.")]
Steps = Annotated[int, typer.Option(help="Steps of a restart.")]
EncoderSteps = Annotated[int, typer.Option(help="Steps of the encoders.")]
PeriodNumber = Annotated[
    int | None,
    typer.Option(
        help="Equal parts of the window, 1 for none; by default as its length has it, days if they are few."
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
DEFAULTS = Settings(platform_factors=1, preference_factors=1)
