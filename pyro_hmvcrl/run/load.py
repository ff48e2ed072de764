"""A run from its folder, after its files have been checked against each other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyro_hmvcrl import __version__
from pyro_hmvcrl.data.dataset import Standardisation
from pyro_hmvcrl.data.files import read_json
from pyro_hmvcrl.data.names import outcome_problem, reserved_among
from pyro_hmvcrl.data.periods import MOST_PERIODS, Periods
from pyro_hmvcrl.guide.transformers import TransformerGuide
from pyro_hmvcrl.inference.ambient import own_state
from pyro_hmvcrl.inference.laplace import (
    BLOCKS,
    OF_EXPOSURE_COVARIATES,
    ParameterPosterior,
    fitted_values,
)
from pyro_hmvcrl.inference.scores import Values
from pyro_hmvcrl.run.files import RunError, finite_tensors, of_file
from pyro_hmvcrl.run.run import Run
from pyro_hmvcrl.story.model import HMVCRL
from pyro_hmvcrl.story.outcomes import OutcomeStory

MOST_FACTORS = 1_000  #: of a channel
MOST_DRAWS = 10_000


@own_state()
def load_run(folder: str | Path) -> Run:
    """A run from its folder, on the CPU.

    Raises
    ------
    RunError
        If the folder is not a run folder, or its files are damaged or of different runs.
    """
    folder = Path(folder)
    path = folder / "config.json"
    with of_file(path):
        config = read_json(path)
        if isinstance(config, dict) and "version" in config and "periods" not in config:
            raise RunError(_of_older(path, config["version"], "knew no periods"))
        config = check_config(config)
        standardisation = Standardisation.from_dict(config["standardisation"])
        _check_standardisation(standardisation, config)
    # What takes memory is made only when the files have proved to be of its size.
    with of_file(folder / "posterior.safetensors"):
        posterior = ParameterPosterior.from_tensors(finite_tensors(folder / "posterior.safetensors"))
        if "b" in posterior.mean and "readiness_log_scale" not in posterior.mean:
            raise RunError(_of_older(path, config["version"], "knew no readiness"))
        _check_sizes(config, posterior.mean)
        suggested = "echo" in posterior.mean
        with torch.device("meta"):
            outline = _guide(config, suggested)
        _check_posterior(posterior, fitted_values(outline))
    outcomes = ParameterPosterior.nothing()
    if config.get("outcomes"):
        with of_file(folder / "outcomes.safetensors"):
            outcomes = ParameterPosterior.from_tensors(finite_tensors(folder / "outcomes.safetensors"))
            _check_outcomes(outcomes, config["outcomes"], outline.model, posterior.n_draws)
    with of_file(folder / "model.safetensors"):
        weights = finite_tensors(folder / "model.safetensors")
        _check_weights(weights, outline.state_dict())
        guide = _guide(config, suggested)
        as_made = {name: buffer.clone() for name, buffer in guide.named_buffers()}
        guide.load_state_dict(weights)
        _check_buffers(guide, as_made)
    return Run(guide, posterior, standardisation, config["categories"], config, outcomes=outcomes)


def _of_older(path: Path, version: str, knew: str) -> str:
    return (
        f"{path}: a run of version {version}, which {knew}, and cannot be read by {__version__}; fit again into a "
        "new folder"
    )


def _guide(config: dict[str, Any], suggested: bool) -> TransformerGuide:
    """A new guide, with its model, of the sizes of config.json."""
    model = HMVCRL(
        config["platform_factors"],
        config["preference_factors"],
        len(config["exposure_covariates"]),
        len(config["preference_covariates"]),
        len(config["categories"]),
        past=config["periods"]["number"] > 1,
        suggested=suggested,
    )
    return TransformerGuide(model)


def check_config(config: Any) -> dict[str, Any]:
    """The content of a config.json, if it has what a model is made of.

    Raises
    ------
    ValueError
        If it has not.
    """
    if not isinstance(config, dict):
        raise ValueError("not an object")
    for key in ("platform_factors", "preference_factors"):
        if type(config[key]) is not int or not 1 <= config[key] <= MOST_FACTORS:
            raise ValueError(f"{key} must be a number from 1 to {MOST_FACTORS}")
    periods = config["periods"]
    if not isinstance(periods, dict) or any(type(n) is not int for n in periods.values()):
        raise ValueError("periods must be an object of whole numbers")
    if Periods(**periods).length < 1 or not 1 <= periods["number"] <= MOST_PERIODS:
        raise ValueError("its periods cannot be")
    for key in ("exposure_covariates", "preference_covariates", "categories"):
        names = config[key]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"{key} must be a list of names")
        if len(set(names)) < len(names):
            raise ValueError(f"{key} has a name twice")
        if key != "categories" and (taken := reserved_among(names)):
            raise ValueError(f"{key} has {taken!r}, which means something else here")
    outcomes = config.get("outcomes", [])
    if not isinstance(outcomes, list) or not all(isinstance(name, str) for name in outcomes):
        raise ValueError("outcomes must be a list of names")
    if problem := outcome_problem(outcomes):
        raise ValueError(f"outcome {problem}")
    return config


def _check_standardisation(standardisation: Standardisation, config: dict[str, Any]) -> None:
    """Covariates as in the rest of config.json, each with a finite mean and a standard deviation above 0."""
    for key in ("exposure_covariates", "preference_covariates"):
        if getattr(standardisation, key) != config[key]:
            raise ValueError(f"its standardisation has other {key}")
    names = [*config["exposure_covariates"], *config["preference_covariates"]]
    mean, sd = (np.array([of[n] for n in names], float) for of in (standardisation.mean, standardisation.sd))
    if not np.isfinite([mean, sd]).all() or not (sd > 0).all():
        raise ValueError("a mean or a standard deviation cannot be")


def _check_sizes(config: dict[str, Any], mean: Values) -> None:
    """The sizes that config.json claims are those of the coefficients."""
    sizes = {
        "platform_factors": (config["platform_factors"], len(mean["alpha"])),
        "preference_factors": (config["preference_factors"], mean["a"].shape[-1]),
        "exposure_covariates": (len(config["exposure_covariates"]), len(mean["platform_location"])),
        "preference_covariates": (len(config["preference_covariates"]), len(mean["preference_location"])),
        "categories": (len(config["categories"]), len(mean["b"])),
    }
    for key, (claimed, held) in sizes.items():
        if claimed != held:
            raise ValueError(f"{held} {key}, and {claimed} in config.json")
    if ("learning" in mean) != (config["periods"]["number"] > 1):
        raise ValueError("of other periods than config.json has")


def _check_posterior(posterior: ParameterPosterior, fitted: Values) -> None:
    """Means, standard deviations and draws of everything that was fitted, in its size."""
    drawn = (posterior.n_draws,)
    if not posterior.n_draws:
        raise ValueError("has no draws")
    if posterior.n_draws > MOST_DRAWS:
        raise ValueError(f"has {posterior.n_draws:,} draws, of which no fit makes more than {MOST_DRAWS:,}")
    placebo = [name for name in OF_EXPOSURE_COVARIATES if name in fitted and len(fitted["delta"])]
    for block, ratio in posterior.information.items():
        if block not in BLOCKS or ratio.shape != () or ratio < 0:
            raise ValueError(f"information/{block} is no ratio of a part of the model")
    for part, values, draws, expected in (
        ("mean", posterior.mean, (), fitted),
        ("sd", posterior.sd, (), fitted),
        ("draws", posterior.draws, drawn, fitted),
        ("placebo", posterior.placebo, drawn, placebo),
    ):
        _check_part(part, values, {name: (*draws, *fitted[name].shape) for name in {*expected, *values}})


def _check_outcomes(outcomes: ParameterPosterior, names: list[str], model: HMVCRL, n_draws: int) -> None:
    """Means, standard deviations and draws of every outcome's coefficients, in their size, and no others."""
    stories = [OutcomeStory(name, model) for name in names]
    shapes = {story.site(part): of[2] for story in stories for part, of in story.priors.items()}
    ratios = outcomes.information
    told = {*ratios} == {*names} and all(of.shape == () and of >= 0 for of in ratios.values())
    if not told or outcomes.placebo:
        raise ValueError("of other outcomes than config.json has")
    for part, draws in (("mean", ()), ("sd", ()), ("draws", (n_draws,))):
        values = getattr(outcomes, part)
        _check_part(part, values, {name: (*draws, *shapes[name]) for name in {*shapes, *values}})


def _check_part(part: str, values: Values, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Every tensor of a part of a posterior, in its size, in single precision."""
    for name, shape in sorted(shapes.items()):
        # integers or half precision are not a fit's
        if values[name].shape != shape or values[name].dtype != torch.float32:
            raise ValueError(f"{part}/{name} is not of {shape} numbers in single precision")
        if part == "sd" and (values[name] < 0).any():
            raise ValueError(f"{part}/{name} is below 0")


def _check_weights(weights: Values, expected: Values) -> None:
    """Every tensor that there must be, in its size, and no other."""
    for name in sorted({*expected, *weights}):
        if name not in expected:
            raise ValueError(f"{name} is no part of such a model")
        shape, dtype = expected[name].shape, expected[name].dtype
        if weights[name].shape != shape or weights[name].dtype != dtype:
            raise ValueError(f"{name} is not of {tuple(shape)} numbers ({dtype})")


def _check_buffers(guide: TransformerGuide, as_made: Values) -> None:
    """What is not fitted is as it was made, but for the graph, which is oriented, and a rate."""
    own = dict(guide.named_buffers())
    graph = guide.model.graph
    forth, back = graph.allowed, graph.allowed.T
    across = as_made.pop("model.graph.allowed")  # as it was made, both ways between the channels
    position = graph.order.argsort()
    late = forth.bool() & (
        position[:, None] >= position[None, :]
    )  # a source that is worked out after its target
    both_ways = not torch.equal(forth, forth.bool().float()) or not torch.equal(forth + back, across)
    if not graph.oriented or both_ways or late.any():
        raise ValueError("its graph is none that a fit makes")
    if not torch.equal(graph.order.sort().values, as_made.pop("model.graph.order")):
        raise ValueError("its graph leaves factors out")
    as_made.pop("model.graph.oriented")
    if as_made.pop("model.usual_engagement", None) is not None and not 0 <= guide.model.usual_engagement <= 1:
        raise ValueError("its usual engagement is no rate")
    for block in ("exposure", "preference"):
        curved = as_made.pop(f"model.curved_{block}")
        if not torch.equal(own[f"model.curved_{block}"], (own[f"model.curved_{block}"] != 0).to(curved)):
            raise ValueError(f"which {block} covariates can bend is not told by 0 and 1")
    for name, buffer in as_made.items():
        if not torch.equal(own[name], buffer):
            raise ValueError(f"{name} is not what it must be")
