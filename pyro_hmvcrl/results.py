"""A fitted run: what is kept of it, on disk and in memory.

A run folder holds ``config.json``, ``model.safetensors``, ``training.csv``, ``factors.parquet``, ``graph.csv`` and
``report.json``, and for causal queries ``posterior.safetensors``, ``experts.safetensors`` and ``covariates.parquet``.
It appears whole or not at all: while a fit is going on, its checkpoints stand in a hidden folder beside it, from which
a killed run goes on.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from scipy.stats import laplace, norm
from torch.func import functional_call

from pyro_hmvcrl import __version__
from pyro_hmvcrl._arviz import inference_data
from pyro_hmvcrl.dataset import (
    CHANNELS,
    LOCK,
    Dataset,
    Standardisation,
    clear_away,
    one_line,
    read_dataset,
    read_json,
    whole_file,
    whole_folder,
)
from pyro_hmvcrl.guide import USERS_AT_ONCE, Expert, TransformerGuide, product_of_experts
from pyro_hmvcrl.identifiability import ChannelEvidence, IdentifiabilityReport, identifiability
from pyro_hmvcrl.inference import (
    Fit,
    Screening,
    Settings,
    factor_posterior,
    fit,
    load_tensors,
    save_tensors,
    tensors_of,
)
from pyro_hmvcrl.laplace import (
    DRAWS,
    OF_EXPOSURE_COVARIATES,
    ParameterPosterior,
    Values,
    fitted_values,
    laplace_posterior,
)
from pyro_hmvcrl.model import HMVCRL, Logs
from pyro_hmvcrl.predictive import predictive_checks
from pyro_hmvcrl.processes import first, wait

#: An edge less probable than this is taken for absent: drawn dashed and faint, no path asked for.
LIKELY = 0.5
MOST_FACTORS = 1_000  #: of a channel
STUCK = 0.1  #: nats a user below the best restart: no rival; starts that end alike differ by hundredths
FEWEST_HELD_OUT = 8  #: users, that a fit can be judged
MEND = "restore it from a copy of the run, or fit again into a new folder"
Array = NDArray[np.float64]


class RunError(ValueError):
    """A run folder that cannot be used or made: the message names it and the mend."""


@dataclass(frozen=True)
class Run:
    """A fitted guide (with its model) and what is needed to use it on new logs."""

    guide: TransformerGuide
    posterior: ParameterPosterior
    standardisation: Standardisation
    categories: list[str]
    config: dict[str, Any]

    @property
    def factor_names(self) -> list[str]:
        """Platform factors first."""
        return self.guide.model.graph.names

    def logs(self, dataset: Dataset) -> Logs:
        """A dataset as this run's model reads it, with this run's standardisation."""
        return tensors_of(dataset, self.standardisation)

    def encode(self, dataset: Dataset, evidence: Expert | None = None) -> pd.DataFrame:
        """Posterior mean and standard deviation (``_sd``) of each user's factors, a row a user.

        Parameters
        ----------
        evidence
            The users' own, where it is known already (:meth:`evidence`).

        Raises
        ------
        DatasetError
            If a covariate that the run was fitted with is missing, or is not a finite number.
        RunError
            If the run's weights give no posterior of these users.
        """
        try:
            mean, sd = self._encode(dataset, evidence)
        except FloatingPointError as error:
            raise RunError(f"model.safetensors: {error}, or fit again") from error
        if not np.isfinite([mean, sd]).all():
            raise RunError(
                "model.safetensors: a factor is not finite; look for extreme covariates, or fit again"
            )
        frame = pd.DataFrame({"user_id": dataset.user_id})
        for k, name in enumerate(self.factor_names):
            frame[name], frame[f"{name}_sd"] = mean[:, k], sd[:, k]
        return frame

    @torch.no_grad()
    def _encode(self, dataset: Dataset, evidence: Expert | None) -> tuple[Array, Array]:
        """Means and standard deviations ``(N, K)``."""
        experts = Expert(*(part.split(USERS_AT_ONCE) for part in evidence or self.evidence(dataset)))
        found = []
        for users, *own in zip(self._logs(dataset).batches(USERS_AT_ONCE), *experts, strict=True):
            prior = self.guide.prior(self.guide.coefficients.means(), users)
            expert = Expert(*(part.to(prior.base.device) for part in own))
            found.append(factor_posterior(prior, product_of_experts(prior, [expert])))
        mean, sd = map(np.concatenate, zip(*found, strict=True))
        return mean, sd

    def evidence(self, dataset: Dataset) -> Expert:
        """What the users' own logs say of their factors."""
        return Expert(*(part.cpu() for part in self.guide.evidence(self._logs(dataset))))

    def predictive(self, dataset: Dataset, progress: bool = False) -> dict[str, Any]:
        """Do logs that this run's model makes look like these? See :func:`predictive.predictive_checks`."""
        names = self.categories, self.config["exposure_covariates"]
        model, logs, seed = self.guide.model, self.logs(dataset), self.config["settings"]["seed"]
        return predictive_checks(model, self.posterior, logs, *names, seed=seed, progress=progress)

    def _logs(self, dataset: Dataset) -> Logs:
        """Where the guide is."""
        return self.logs(dataset).to(self.guide.model.zero.device)

    def edges(self, factors: pd.DataFrame) -> pd.DataFrame:
        """The graph's admissible edges: standardised weight, its posterior sd, and the edge's probability.

        `weight` is ``B[source, target] sd(source) / sd(target)``.  `probability` is the posterior probability that
        the edge is there at all, by the Savage-Dickey density ratio at zero with even prior odds (Dickey 1971).
        """
        names = self.factor_names
        spread = factors[names].std(ddof=0).to_numpy()
        rows = []
        for j, k in self.guide.model.graph.allowed.nonzero().tolist():
            weight, sd = (part["edges"][j, k].item() for part in (self.posterior.mean, self.posterior.sd))
            against = norm.pdf(0, weight, sd) / laplace.pdf(0, scale=self.guide.model.priors["edges"][1])
            to_standard = spread[j] / spread[k]
            rows.append((names[j], names[k], weight * to_standard, sd * to_standard, 1 / (1 + against)))
        return pd.DataFrame(rows, columns=["source", "target", "weight", "sd", "probability"])

    def to_arviz(self) -> Any:
        """Draws from the posterior over the structural coefficients, for ArviZ.

        One chain: effective sample sizes and R-hat mean nothing for independent draws.

        Returns
        -------
        arviz.InferenceData or xarray.DataTree
            The former on ArviZ 0.23, the latter on 1.x.
        """
        draws = self.posterior.draws
        posterior = {name: draws[name].numpy() for name in self.guide.model.priors}
        posterior["edges"] = posterior["edges"] * self.guide.model.graph.allowed.cpu().numpy()
        axes = {"factor": self.factor_names, "target": self.factor_names, "category": self.categories}
        axes |= {channel: [n for n in self.factor_names if n.startswith(channel)] for channel in CHANNELS}
        axes |= {
            f"{block}_covariate": self.config[f"{block}_covariates"] for block in ("exposure", "preference")
        }
        dims = {
            "platform_location": ["exposure_covariate", "platform"],
            "platform_log_scale": ["exposure_covariate", "platform"],
            "preference_location": ["preference_covariate", "preference"],
            "preference_log_scale": ["preference_covariate", "preference"],
            "edges": ["factor", "target"],
            "a": ["category", "preference"],
            "b": ["category"],
            "alpha": ["platform"],
            "delta": ["exposure_covariate"],
        }
        posterior = {name: values for name, values in posterior.items() if values.size}
        return inference_data(posterior, coords=axes, dims={name: dims[name] for name in posterior})


@dataclass(frozen=True)
class Truth:
    """A simulated dataset's true factors and the oracle's posterior means by channel, ``(N, K_channel)``."""

    factors: dict[str, Array]
    oracle: dict[str, Array]

    @classmethod
    def beside(cls, folder: Path, dataset: Dataset) -> Truth | None:
        """The truth in a dataset folder, if it has one, in the dataset's order of users.

        Raises
        ------
        RunError
            If it lacks a user of the dataset, or is no such file.
        """
        path = folder / "truth.npz"
        if not path.exists():
            return None
        with of_file(path, "remove it"), np.load(path, allow_pickle=False) as file:
            row = pd.Index(file["user_id"].astype(str)).get_indexer(pd.Index(dataset.user_id.astype(str)))
            if (row < 0).any():
                unknown = dataset.user_id[np.flatnonzero(row < 0)[0]]
                raise RunError(f"{path}: no user {unknown}; it belongs to another dataset: remove it")
            true: dict[str, Array] = {c: file[c][row].astype(float) for c in CHANNELS}
            oracle: dict[str, Array] = {c: file[f"oracle_{c}"][row].astype(float) for c in CHANNELS}
            for channel in CHANNELS:
                if true[channel].ndim != 2 or true[channel].shape != oracle[channel].shape:
                    raise ValueError(f"{channel} and oracle_{channel} are not of one size")
                if not np.isfinite([true[channel], oracle[channel]]).all():
                    raise ValueError(f"{channel} or oracle_{channel} is not finite")
            return cls(true, oracle)


# --- Judging a fit -------------------------------------------------------------------------------------------


def evaluate(found: Fit, dataset: Dataset, truth: Truth | None = None) -> IdentifiabilityReport:
    """Every identifiability figure, at the held-out users."""
    rows = np.flatnonzero(found.held_out)
    model, coefficients = found.guide.model, found.guide.coefficients.means()
    logs = tensors_of(dataset, found.standardisation).batch(torch.as_tensor(rows)).to(model.zero.device)
    prior, noise = found.guide.posterior(logs)
    mean, sd = factor_posterior(prior, noise)
    c_p, c_q = logs.exposure_covariates, logs.preference_covariates
    location, scale = (_numpy(t) for t in model.mechanisms(coefficients, c_p, c_q))
    prior_mean, prior_sd = _numpy(prior.base), _numpy((prior.turn**2).sum(-1).sqrt())
    kl = np.log(prior_sd / sd) + (sd**2 + (mean - prior_mean) ** 2) / (2 * prior_sd**2) - 0.5
    covariates = {"platform": _numpy(c_p), "preference": _numpy(c_q)}
    best = found.restarts[found.selected].bound
    rivals = [r.factors for r in found.restarts if r.bound > best - STUCK]
    evidence: dict[str, ChannelEvidence] = {}
    for channel, other in (CHANNELS, CHANNELS[::-1]):
        block = _block(model, channel)
        evidence[channel] = ChannelEvidence(
            estimate=mean[:, block],
            location=location[:, block],
            scale=scale[:, block],
            covariates=covariates[channel],
            other_covariates=covariates[other],
            kl=kl[:, block],
            truth=truth.factors[channel][rows] if truth else None,
            oracle=truth.oracle[channel][rows] if truth else None,
            restarts=[factors[:, block] for factors in rivals],
            stuck=len(found.restarts) - len(rivals),
            prior_mean=prior_mean[:, block],
            n_train=int((~found.held_out).sum()),
        )
    return identifiability(evidence)


def _block(model: HMVCRL, channel: str) -> slice:
    """A channel's place on the K axis."""
    return slice(0, model.n_platform) if channel == "platform" else slice(model.n_platform, None)


def _numpy(tensor: torch.Tensor) -> Array:
    return tensor.detach().double().cpu().numpy()


# --- The run folder ------------------------------------------------------------------------------------------


def fit_folder(data: Path, out: Path, settings: Settings, progress: bool = False) -> Run:
    """Fit a dataset folder and write the run folder; a fit of the same that was killed goes on.

    Of several processes (:mod:`processes`) the first writes.  The run that is returned is on the CPU.

    Raises
    ------
    RunError
        If `out` exists, or an unfinished fit of something else stands beside it, or one that is at work.
    DatasetError
        If the dataset is bad; nothing is written then.
    """
    if out.exists():
        if (left := _beside(out)).exists():  # of a fit that was killed when its run was there already
            clear_away(left)
        raise RunError(f"{out}: exists already; choose another folder or remove this one")
    dataset = read_dataset(data)
    if dataset.n_users >= 20 and round(settings.held_out * dataset.n_users) < FEWEST_HELD_OUT:
        needed = round(FEWEST_HELD_OUT / settings.held_out)
        raise RunError(f"{data}: {dataset.n_users} users are too few to judge a fit; give {needed} or more")
    truth = Truth.beside(data, dataset)
    checkpoints = _checkpoint_folder(out, dataset, settings)
    with _alone(checkpoints) if first() else nullcontext():
        start = time.monotonic()
        found = fit(dataset, settings, checkpoints, progress and first())
        posterior = parameter_posterior(found, dataset, settings.seed)
        seconds = time.monotonic() - start
        config = _config(dataset, settings, found, seconds)
        run = Run(found.guide, posterior, found.standardisation, dataset.categories, config)
        wait()  # for those that still read checkpoints
        if first():
            with whole_folder(out) as folder:
                _write_run(run, found, dataset, truth, folder)
            shutil.rmtree(checkpoints)
    run.guide.to("cpu")
    return run


def parameter_posterior(
    found: Fit | Screening, dataset: Dataset, seed: int, draws: int = DRAWS
) -> ParameterPosterior:
    """Posterior over the model's parameters, given the users that it was trained on."""
    logs = tensors_of(dataset, found.standardisation).to(found.guide.model.zero.device)
    users = logs.only(torch.as_tensor(np.flatnonzero(~found.held_out)))
    return laplace_posterior(found.guide, users, seed, draws)


def load_run(folder: Path) -> Run:
    """A run from its folder, on the CPU.

    Raises
    ------
    RunError
        If the folder is not a run folder, or its files are damaged or of different runs.
    """
    path = folder / "config.json"
    with of_file(path):
        config = check_config(read_json(path))
        standardisation = Standardisation.from_dict(config["standardisation"])
        _check_standardisation(standardisation, config)
    with of_file(folder / "posterior.safetensors"):
        posterior = ParameterPosterior.from_tensors(finite_tensors(folder / "posterior.safetensors"))
        _check_sizes(config, posterior.mean)  # before a model of any size is made
    model = HMVCRL(
        config["platform_factors"],
        config["preference_factors"],
        len(config["exposure_covariates"]),
        len(config["preference_covariates"]),
        len(config["categories"]),
    )
    guide = TransformerGuide(model)
    with of_file(folder / "model.safetensors"):
        guide.load_state_dict(finite_tensors(folder / "model.safetensors"))
    with of_file(folder / "posterior.safetensors"):
        _check_posterior(posterior, fitted_values(guide))
    return Run(guide, posterior, standardisation, config["categories"], config)


@contextmanager
def of_file(path: Path, mend: str = MEND, kind: type[ValueError] = RunError) -> Iterator[None]:
    """Whatever goes wrong with a file here, and whichever library says so, is one error of a `kind` that names it.

    No check foresees all that a file may say.
    """
    try:
        yield
    except kind:
        raise
    except Exception as error:
        if not path.exists():
            raise kind(f"{path}: not found; give a folder that fit has written, or {mend}") from None
        said = f"no {one_line(error)}" if isinstance(error, KeyError) else one_line(error)
        raise kind(f"{path}: cannot be read ({said[:300]}); {mend}") from error


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
    for key in ("exposure_covariates", "preference_covariates", "categories"):
        names = config[key]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"{key} must be a list of names")
        if len(set(names)) < len(names):
            raise ValueError(f"{key} has a name twice")
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


def finite_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file, if all their numbers are finite.

    Raises
    ------
    ValueError
        If one is not.
    """
    tensors, _ = load_tensors(path)
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{name} is not finite")
    return tensors


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


def _check_posterior(posterior: ParameterPosterior, fitted: Values) -> None:
    """Means, standard deviations and draws of everything that was fitted, in its size."""
    drawn, placebo = (posterior.n_draws,), OF_EXPOSURE_COVARIATES if len(fitted["delta"]) else ()
    for part, values, draws, expected in (
        ("mean", posterior.mean, (), fitted),
        ("sd", posterior.sd, (), fitted),
        ("draws", posterior.draws, drawn, fitted),
        ("placebo", posterior.placebo, drawn, placebo),
    ):
        for name in sorted({*expected, *values}):
            shape = (*draws, *fitted[name].shape)
            of_a_kind = values[name].dtype == fitted[name].dtype  # integers or half precision are not a fit's
            if values[name].shape != shape or not of_a_kind or 0 in drawn:
                raise ValueError(f"{part}/{name} is not of {shape} numbers in single precision")
            if part == "sd" and (values[name] < 0).any():
                raise ValueError(f"{part}/{name} is below 0")


def _checkpoint_folder(out: Path, dataset: Dataset, settings: Settings) -> Path:
    """The hidden folder of an unfinished fit, which the first process marks with what is being fitted."""
    folder = _beside(out)
    if first():
        _mark(folder, dataset, settings)
    wait()
    return folder


def _beside(out: Path) -> Path:
    return out.with_name(f".{out.name}.unfinished")


def _mark(folder: Path, dataset: Dataset, settings: Settings) -> None:
    """Make the folder, unless it stands there for another fit."""
    digest = hashlib.sha256()
    for part in (dataset.search, dataset.exposure, dataset.engagement, *map(dataset.covariates, CHANNELS)):
        digest.update(np.ascontiguousarray(part).data)
    mark = json.dumps(
        {"version": __version__, "settings": asdict(settings), "dataset": digest.hexdigest()}, sort_keys=True
    )
    marker = folder / "fit.json"
    if marker.exists() and marker.read_text() != mark:
        raise RunError(
            f"{folder}: an unfinished fit of another dataset, version or settings; remove it to start anew"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(marker) as file:
        file.write_text(mark)


@contextmanager
def _alone(checkpoints: Path) -> Iterator[None]:
    """Keep other fits out of the folder; the system lets go of the lock of one that was killed."""
    lock = FileLock(checkpoints / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise RunError(
            f"{checkpoints}: another fit is at work there; wait for it, or choose another folder"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _write_run(run: Run, found: Fit, dataset: Dataset, truth: Truth | None, folder: Path) -> None:
    identified = evaluate(found, dataset, truth)
    evidence = run.evidence(dataset)
    factors = run.encode(dataset, evidence)
    edges = run.edges(factors)
    factors["held_out"] = found.held_out
    if truth is not None:
        factors = factors.join(_matched_truth(factors, truth, identified))
    names = [*dataset.exposure_covariates, *dataset.preference_covariates]
    (folder / "config.json").write_text(json.dumps(run.config, indent=2))
    save_tensors(folder / "model.safetensors", run.guide.state_dict(), {"version": __version__})
    save_tensors(folder / "posterior.safetensors", run.posterior.to_tensors(), {"version": __version__})
    save_tensors(folder / "experts.safetensors", evidence._asdict(), {"version": __version__})
    found.history.to_csv(folder / "training.csv", index=False)
    factors.to_parquet(folder / "factors.parquet", index=False)
    dataset.users[["user_id", *names]].to_parquet(folder / "covariates.parquet", index=False)
    edges.to_csv(folder / "graph.csv", index=False)
    report = {
        "identifiability": identified.to_dict(),
        "restarts": [
            {"restart": r, "selected": r == found.selected}
            | {"bound": start.bound, "held_out_bound": start.held_out_bound}
            for r, start in enumerate(found.restarts)
        ],
        "scoring": found.scoring,
        "held_out_bound": {"mean": found.bound[0], "standard_error": found.bound[1]},
        "graph": edges.to_dict("records"),
        "mechanisms": {channel: _mechanism(run, channel) for channel in CHANNELS},
        "factor_categories": _factor_categories(run, factors),
        "predictive": run.predictive(dataset),
    }
    (folder / "report.json").write_text(json.dumps(report, indent=2, allow_nan=False))


def _config(dataset: Dataset, settings: Settings, found: Fit, seconds: float) -> dict[str, Any]:
    return {
        "version": __version__,
        "name": dataset.name,
        "platform_factors": settings.platform_factors,
        "preference_factors": settings.preference_factors,
        "exposure_covariates": dataset.exposure_covariates,
        "preference_covariates": dataset.preference_covariates,
        "categories": dataset.categories,
        "standardisation": found.standardisation.to_dict(),
        "settings": asdict(settings),
        "users": dataset.n_users,
        "held_out_users": int(found.held_out.sum()),
        "search_events": int(dataset.search.sum(dtype=float)),
        "recommendation_events": int(dataset.exposure.sum(dtype=float)),
        "seconds": round(seconds, 1),
    }


def _matched_truth(factors: pd.DataFrame, truth: Truth, identified: IdentifiabilityReport) -> pd.DataFrame:
    """Each factor's true counterpart, with the factor's sign, mean and standard deviation."""
    matched = {}
    for channel, report in identified.channels.items():
        assert report.mcc is not None
        for true, (fitted, sign) in enumerate(zip(report.mcc.assignment, report.mcc.signs, strict=True)):
            if fitted >= 0:
                estimate, values = factors[f"{channel}_{fitted + 1}"], truth.factors[channel][:, true]
                standard = (values - values.mean()) / values.std()
                matched[f"{estimate.name}_true"] = sign * standard * estimate.std(ddof=0) + estimate.mean()
    return pd.DataFrame(matched, index=factors.index)


def _mechanism(run: Run, channel: str) -> dict[str, Any]:
    """Location and log-scale coefficients of a channel, with their posterior sds, a row per covariate."""
    block = {"platform": "exposure", "preference": "preference"}[channel]
    values: dict[str, Any] = {"covariates": run.config[f"{block}_covariates"]}
    for part in ("location", "log_scale"):
        name = f"{channel}_{part}"
        values |= {part: run.posterior.mean[name].tolist(), f"{part}_sd": run.posterior.sd[name].tolist()}
    return values


@torch.no_grad()
def _factor_categories(run: Run, factors: pd.DataFrame, most: int = 5) -> dict[str, dict[str, Any]]:
    """The categories that each factor raises and lowers most on its own surface, and by how much.

    ``change`` is that of the log share, for one standard deviation more of the factor (half of the change from -1 to
    +1), the channel's other factors at their means: at the posterior mean, with an interval over draws of the decoder.
    """
    model, described = run.guide.model, {}
    for channel, decoder in (("platform", "f_exposure"), ("preference", "f_search")):
        names = [name for name in run.factor_names if name.startswith(channel)]
        middle, sd = factors[names].mean().to_numpy(), factors[names].std(ddof=0).to_numpy()
        for k, name in enumerate(names):
            step = sd * np.eye(len(names))[k]
            ends = torch.as_tensor(np.stack([middle - step, middle + step]), dtype=torch.float32)
            change = _half_change(model, decoder, run.posterior.mean, ends)
            drawn = [
                _half_change(model, decoder, run.posterior.draw(i), ends)
                for i in range(run.posterior.n_draws)
            ]
            lower, upper = np.quantile(drawn, [0.05, 0.95], axis=0)
            order = np.argsort(change)
            chosen = {"raised": order[::-1][:most], "lowered": order[:most]}
            described[name] = {key: [run.categories[i] for i in rows] for key, rows in chosen.items()} | {
                "change": {
                    run.categories[i]: {
                        "mean": float(change[i]),
                        "lower": float(lower[i]),
                        "upper": float(upper[i]),
                    }
                    for i in order[::-1]
                }
            }
    return described


def _half_change(model: HMVCRL, decoder: str, values: Values, ends: torch.Tensor) -> Array:
    """Half of what the log shares ``(C,)`` of a decoder with these weights change between two points ``(2, K)``."""
    own = {n.removeprefix(f"{decoder}."): t for n, t in values.items() if n.startswith(f"{decoder}.")}
    device = model.zero.device
    logits = functional_call(
        getattr(model, decoder), {n: t.to(device) for n, t in own.items()}, ends.to(device)
    )
    low, high = logits.log_softmax(-1)
    return _numpy(high - low) / 2
