"""A fitted run in memory: guide, posterior, and what is needed to read new logs with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import laplace, norm

from pyro_hmvcrl.data.dataset import CHANNELS, Dataset, Standardisation
from pyro_hmvcrl.data.periods import Periods
from pyro_hmvcrl.evidence.predictive import predictive_checks
from pyro_hmvcrl.evidence.to_arviz import inference_data
from pyro_hmvcrl.guide.experts import Expert, factor_posterior, product_of_experts
from pyro_hmvcrl.guide.guide import USERS_AT_ONCE
from pyro_hmvcrl.guide.transformers import TransformerGuide
from pyro_hmvcrl.inference.ambient import own_state
from pyro_hmvcrl.inference.bound import user_log_likelihood
from pyro_hmvcrl.inference.laplace import ParameterPosterior
from pyro_hmvcrl.inference.svi import tensors_of
from pyro_hmvcrl.run.files import RunError
from pyro_hmvcrl.story.history import LOOKS_AT
from pyro_hmvcrl.story.logs import Logs, SparseLogs
from pyro_hmvcrl.story.model import HMVCRL

#: An edge less probable than this is taken for absent: drawn dashed and faint, no path asked for.
LIKELY = 0.5
TRIFLE = 0.05  #: of an edge, in standard deviations of its ends
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Run:
    """A fitted guide (with its model) and what is needed to use it on new logs.

    `outcomes` is the posterior over the coefficients of further outcomes, where the logs had such.
    """

    guide: TransformerGuide
    posterior: ParameterPosterior
    standardisation: Standardisation
    categories: list[str]
    config: dict[str, Any]
    outcomes: ParameterPosterior = field(default_factory=ParameterPosterior.nothing, kw_only=True)

    def __post_init__(self) -> None:
        """From here on the guide draws its coefficients from their joint posterior, and no longer as SVI had them."""
        of_sites = {name: self.posterior.draws[name] for name in self.guide.model.priors}
        self.guide.coefficients.joint = of_sites

    def __repr__(self) -> str:
        names, c = ", ".join(self.factor_names), self.config
        return (
            f"Run of {c['name']!r}: {c['users']:,} users, {len(self.categories)} categories; factors {names}"
        )

    @property
    def model(self) -> HMVCRL:
        """The Pyro program, with the weights of its decoders."""
        return self.guide.model

    @property
    def coefficients(self) -> dict[str, torch.Tensor]:
        """Posterior means of the structural coefficients, by site of the model."""
        return self.guide.coefficients.means()

    @own_state()
    def noise(self, logs: Logs, seed: int = 0) -> torch.Tensor:
        """The users' noise as their own logs speak of it ``(N, K + 1)``: a draw of the guide's.

        With the coefficients it holds the users fixed, for ``pyro.condition``.
        """
        _, of_users = self.guide.posterior(logs)
        torch.manual_seed(seed)
        drawn: torch.Tensor = of_users.sample()
        return drawn

    @property
    def outcome_names(self) -> list[str]:
        """Further outcomes of what was shown, beside engagement."""
        return list(self.outcomes.information)

    @property
    def factor_names(self) -> list[str]:
        """Platform factors first."""
        return self.guide.model.graph.names

    @property
    def periods(self) -> Periods | int:
        """How logs that this run reads are to be cut."""
        periods = Periods(**self.config["periods"])
        return periods if periods.number > 1 else 1

    @own_state()
    def logs(self, dataset: Dataset) -> Logs:
        """A dataset as this run's model reads it, with this run's standardisation: all users at once."""
        return self._sparse_logs(dataset).all()

    @own_state()
    def encode(self, dataset: Dataset, evidence: Expert | None = None, raw: bool = False) -> pd.DataFrame:
        """Posterior mean and standard deviation (``_sd``) of each user's factors, a row a user.

        Parameters
        ----------
        evidence
            The users' own, where it is known already (:meth:`evidence`).
        raw
            As the encoders alone have it, without the scoring steps that follow them.

        Raises
        ------
        DatasetError
            If a covariate that the run was fitted with is missing, or is not a finite number.
        RunError
            If the run's weights give no posterior of these users.
        """
        try:
            mean, sd = self._encode(dataset, evidence or self.evidence(dataset, raw))
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
    def _encode(self, dataset: Dataset, evidence: Expert) -> tuple[Array, Array]:
        """Means and standard deviations ``(N, K)``."""
        experts = Expert(*(part.split(USERS_AT_ONCE) for part in evidence))
        found = []
        for users, *own in zip(self._logs(dataset).batches(USERS_AT_ONCE), *experts, strict=True):
            prior = self.guide.prior(self.guide.coefficients.means(), users)
            expert = Expert(*(part.to(prior.base.device) for part in own))
            found.append(factor_posterior(prior, product_of_experts(prior, [expert])))
        mean, sd = map(np.concatenate, zip(*found, strict=True))
        return mean, sd

    @own_state()
    def evidence(self, dataset: Dataset, raw: bool = False) -> Expert:
        """What the users' own logs say of their factors; `raw`: as the encoders alone have it."""
        of_users = self.guide.encoded if raw else self.guide.evidence
        return Expert(*(part.cpu() for part in of_users(self._logs(dataset))))

    @own_state()
    def predictive(self, dataset: Dataset, progress: bool = False) -> dict[str, Any]:
        """Do logs that this run's model makes look like these? See :func:`predictive.predictive_checks`."""
        c = self.config
        names = self.categories, c["exposure_covariates"], c["preference_covariates"]
        model, seed = self.guide.model, self.config["settings"]["seed"]
        logs = self._sparse_logs(dataset)
        return predictive_checks(model, self.posterior, logs, *names, seed=seed, progress=progress)

    def _logs(self, dataset: Dataset) -> Logs | SparseLogs:
        """Where the guide is."""
        return self._sparse_logs(dataset).to(self.guide.model.zero.device)

    def _sparse_logs(self, dataset: Dataset) -> SparseLogs:
        return tensors_of(self.as_read(dataset), self.standardisation, self.guide.model)

    def as_read(self, dataset: Dataset) -> Dataset:
        """A dataset as this run reads logs: of one period, if the run has one.

        Raises
        ------
        RunError
            If it has other categories than the run, or periods of another length.
        """
        if [*dataset.categories] != [*self.categories]:
            raise RunError(
                f"logs {dataset.name}: of other categories than the run's; read them with categories=run.categories, "
                "periods=run.periods"
            )
        if not isinstance(self.periods, Periods):
            return dataset.with_counts() if dataset.periods.number > 1 else dataset
        if dataset.periods.length != self.periods.length:
            raise RunError(
                f"logs {dataset.name}: cut into {dataset.periods}, and the run knows {self.periods}; read them with "
                "periods=run.periods"
            )
        return dataset

    @own_state()
    def edges(self, factors: pd.DataFrame) -> pd.DataFrame:
        """The graph's admissible edges, see :func:`edges_of`."""
        return edges_of(self.guide.model, self.posterior, factors[self.factor_names])

    @own_state()
    def to_arviz(self, logs: Logs | None = None) -> Any:
        """Draws from the posterior over the structural coefficients, for ArviZ.

        One chain: effective sample sizes and R-hat mean nothing for independent draws.

        Parameters
        ----------
        logs
            Users whose log likelihood under each draw goes with them, for ``arviz.loo`` and ``arviz.compare``: a number
            each, as a user's events hang together.

        Returns
        -------
        arviz.InferenceData or xarray.DataTree
            The former on ArviZ 0.23, the latter on 1.x.
        """
        draws = self.posterior.draws
        posterior = {name: draws[name].numpy() for name in self.guide.model.priors}
        posterior["edges"] = posterior["edges"] * self.guide.model.graph.allowed.cpu().numpy()
        axes = {"factor": self.factor_names, "target": self.factor_names, "category": self.categories}
        axes |= {"surface": ["search"], "users": ["all"]}
        axes |= {channel: [n for n in self.factor_names if n.startswith(channel)] for channel in CHANNELS}
        axes |= {
            f"{block}_covariate": self.config[f"{block}_covariates"] for block in ("exposure", "preference")
        }
        looks_at = {"learning": "feature", **{n: f"feature_of_{n}" for n in ("influence", "familiarity")}}
        axes |= {axis: list(LOOKS_AT[name]) for name, axis in looks_at.items()}
        dims = {
            "platform_location": ["exposure_covariate", "platform"],
            "platform_bend": ["exposure_covariate", "platform"],
            "platform_log_scale": ["exposure_covariate", "platform"],
            "preference_location": ["preference_covariate", "preference"],
            "preference_bend": ["preference_covariate", "preference"],
            "preference_log_scale": ["preference_covariate", "preference"],
            "edges": ["factor", "target"],
            "a": ["category", "preference"],
            "b": ["category"],
            "alpha": ["platform"],
            "delta": ["exposure_covariate"],
            "delta_bend": ["exposure_covariate"],
            "readiness_log_scale": ["users"],
            "learning": ["feature"],
            "personalisation": ["exposure_covariate", "feature"],
            "personalisation_bend": ["exposure_covariate", "feature"],
            "influence": ["feature_of_influence"],
            "familiarity": ["feature_of_familiarity"],
            "echo": ["surface"],
        }
        posterior = {name: values for name, values in posterior.items() if values.size}
        of_draws = {"coords": axes, "dims": {name: dims[name] for name in posterior}}
        if logs is not None:
            torch.manual_seed(self.config["settings"]["seed"])
            users = user_log_likelihood(self.guide, self.posterior.draws, logs).double().numpy()
            of_draws |= {"log_likelihood": {"users": users}}
        return inference_data(posterior, **of_draws)


def edges_of(
    model: HMVCRL, posterior: ParameterPosterior, factors: pd.DataFrame, trifle: float = TRIFLE
) -> pd.DataFrame:
    """The graph's admissible edges: standardised weight, its posterior sd, and the edge's probability.

    `weight` is ``B[source, target] sd(source) / sd(target)``, with standard deviations over the users of `factors`.
    `probability` is the posterior probability that the edge is more than a trifle, given the graph's orientation: the
    Savage-Dickey density ratio (Dickey 1971) with even prior odds, against weights about zero with a standard deviation
    of `trifle`.  Zero itself would be the wrong rival: decoders of another kind than the model's feign small edges,
    which many users make sure.
    """
    names, spread = list(factors), factors.std(ddof=0).to_numpy()
    rows = []
    for j, k in model.graph.allowed.nonzero().tolist():
        to_standard = spread[j] / spread[k]
        weight, sd = (part["edges"][j, k].item() * to_standard for part in (posterior.mean, posterior.sd))
        slab = laplace.pdf(0, scale=model.priors["edges"][1] * to_standard)
        against = norm.pdf(0, weight, np.hypot(sd, trifle)) / slab
        rows.append((names[j], names[k], weight, sd, 1 / (1 + against)))
    return pd.DataFrame(rows, columns=["source", "target", "weight", "sd", "probability"])
