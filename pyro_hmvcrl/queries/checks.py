"""Checks that come with a causal answer (placebo and sensitivity: with that of a policy).

Overlap
    Does the data support the shifted policy, or does the answer extrapolate?
Placebo
    What does the same shift of covariates that do nothing seem to do?  A self-test of the numbers: a covariate that was
    dealt out at random is independent of everything, however wrong the model is.
Negative controls
    Do exposure covariates reach preference, or preference covariates the platform, but through the graph?  Where they
    do, the model's exclusions are wrong.
Noise
    Is the users' noise what the story says, normal and independent between channels?  A common cause of both channels
    that was not measured would make it correlate.
Sensitivity
    How strong would an unmeasured cause of both the platform's factors and engagement have to be to undo the answer?
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from pyro_hmvcrl.evidence.measures import cross_r2
from pyro_hmvcrl.guide.experts import product_of_experts
from pyro_hmvcrl.guide.guide import Guide
from pyro_hmvcrl.inference.laplace import ParameterPosterior
from pyro_hmvcrl.inference.scores import Values
from pyro_hmvcrl.queries.averages import Users, average_effects, sites_of_past
from pyro_hmvcrl.queries.findings import interval
from pyro_hmvcrl.queries.interventions import Interventions, World
from pyro_hmvcrl.queries.mediation import Mediators
from pyro_hmvcrl.story.mechanisms import scale_of
from pyro_hmvcrl.story.model import HMVCRL

Array = NDArray[np.float64]
LEAK_R2 = 0.02
OF_PLACEBO = 0.25  #: share of the draws of an answer
RARE = 0.05  #: probability under a true model below which a check fails
LOGISTIC_SD = math.pi / 3**0.5  #: of the error in the log odds of engagement
RHOS = (-0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3)


def placebo(
    guide: Guide,
    posterior: ParameterPosterior,
    users: Users,
    shifted: Tensor,
    level: float,
    seed: int = 0,
    share: float = 1.0,
    progress: str = "",
) -> dict[str, Any]:
    """Effects of the shift on the dealt-out copy of the exposure covariates, whose true effect is 0.

    Parameters
    ----------
    shifted
        Standardised exposure covariates ``(N, D_P)`` under the policy; the copy is dealt out with them.
    share
        Of the draws that a placebo has.

    Returns
    -------
    dict
        `outcomes`, for each the interval of every estimand; `of`, how many intervals have a width, and `covers_zero`,
        how many of these cover 0; and `p`, how likely an effect as many standard deviations from 0 as the farthest of
        them is, were all truly 0.  They hang together, so `p` is read off their joint draws (sup-t: Montiel Olea &
        Plagborg-Møller 2019), and not off the number that miss 0.
    """
    generator = torch.Generator().manual_seed(seed)
    dealt = torch.randperm(users.logs.n_users, generator=generator).to(shifted.device)
    real = users.logs.exposure_covariates
    both = users.logs._replace(exposure_covariates=torch.cat([real, real[dealt]], 1))
    effects = average_effects(
        guide,
        posterior.with_placebo(),
        replace(users, logs=both),
        {"exposure_covariates": torch.cat([real, shifted[dealt]], 1)},
        seed=seed,
        share=OF_PLACEBO * share,
        whole=False,
        progress=progress,
    )
    found = {
        outcome: {name: interval(values, level) for name, values in contrasts.items()}
        for outcome, contrasts in effects.contrasts.items()
    }
    asked = [e for contrasts in found.values() for e in contrasts.values() if e["upper"] > e["lower"]]
    covered = sum(e["lower"] <= 0 <= e["upper"] for e in asked)
    drawn = np.stack([values for contrasts in effects.contrasts.values() for values in contrasts.values()])
    return {"outcomes": found, "covers_zero": covered, "of": len(asked), "p": _all_zero(drawn)}


def _all_zero(drawn: Array) -> float:
    """How likely means so far from 0 are, were they 0, by the spread of their draws ``(effects, draws)``."""
    spread = drawn.std(1, keepdims=True)
    moved = spread[:, 0] > 0
    if not moved.any():
        return 1.0
    mean = drawn[moved].mean(1, keepdims=True)
    far = np.abs((drawn[moved] - mean) / spread[moved]).max(0)
    return float((1 + (far >= np.abs(mean / spread[moved]).max()).sum()) / (1 + len(far)))


def negative_controls(
    guide: Guide, posterior: ParameterPosterior, users: Users, seed: int = 0
) -> dict[str, Any]:
    """Out-of-fold R² of each block of covariates on the other channel's noise, which should have none.

    The noise is the posterior mean, from the users' own logs; under the right model no covariate predicts it.
    `null` is the largest of 20 R² of covariates dealt out anew.

    Raises
    ------
    ValueError
        If the users come without experts.
    """
    if users.experts is None:
        raise ValueError("negative controls need the experts of the users' own logs")
    prior = guide.prior(posterior.mean, users.logs)
    noise = product_of_experts(prior, [users.experts]).mean
    platform, preference = guide.model.channels(noise[..., : guide.model.n_factors])
    rng, found = np.random.default_rng(seed), {}
    for block, covariates, channel, of in (
        ("exposure", users.logs.exposure_covariates, "preference", preference),
        ("preference", users.logs.preference_covariates, "platform", platform),
    ):
        c, y = covariates.cpu().numpy(), of.cpu().numpy()
        r2 = cross_r2({"c": c}, {"y": y})["c"]["y"]
        null = max(cross_r2({"c": rng.permutation(c)}, {"y": y})["c"]["y"] for _ in range(20))
        said = "passes" if r2 <= max(null, LEAK_R2) else "fails: these covariates reach it past the graph"
        found[f"{block} covariates on {channel} noise"] = {"r2": r2, "null": null, "verdict": said}
    return found


@torch.no_grad()
def noise_checks(
    guide: Guide, posterior: ParameterPosterior, users: Users, seed: int = 0, draws: int = 100
) -> dict[str, Any]:
    """Is the users' noise, drawn from its posterior, as unlike its prior as the prior's own draws seldom are?

    Realised discrepancies (Gelman, Meng & Stern 1996), with the parameters at their means.

    Returns
    -------
    dict
        For the largest correlation between channels (`channels`) and the largest fourth moment (`tails`): the mean over
        draws of that of the `noise` and of the `prior`; `p`, the share of draws in which the prior's is as large; and
        the `verdict`.

    Raises
    ------
    ValueError
        If the users come without experts.
    """
    drawn = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for _ in range(draws):
            shape = len(users.logs.index), guide.model.n_noise
            standard = torch.randn(shape, device=users.logs.index.device)
            drawn_anew = users.noise(guide, posterior.mean, users.logs.index, standard)
            noise = drawn_anew[..., : guide.model.n_factors]
            pair = [_unlike_prior(z, guide.model.n_platform) for z in (noise, torch.randn_like(noise))]
            drawn.append(torch.stack(pair).cpu())
    found: dict[str, Any] = {}
    for i, (name, (matters, failure)) in enumerate(NOISE_CHECKS.items()):
        of_users, of_prior = torch.stack(drawn)[..., i].T
        p = float((of_prior >= of_users).double().mean())
        means = {"noise": float(of_users.mean()), "prior": float(of_prior.mean())}
        fails = p < RARE and means["noise"] - means["prior"] > matters
        verdict = f"fails: {failure}" if fails else "passes"
        found[name] = means | {"p": p, "verdict": verdict}
    return found


#: By how much the figure must exceed the prior's to matter, however many users show it, and what a failure says.
NOISE_CHECKS = {
    "channels": (0.05, "something that was not measured moves both channels, or a factor is missing"),
    "tails": (0.5, "single users are further out than a normal noise allows"),
}


def _unlike_prior(noise: Tensor, n_platform: int) -> Tensor:
    """Of noise ``(N, K)`` the largest correlation between the channels, and the largest fourth moment."""
    between = torch.corrcoef(noise.T)[:n_platform, n_platform:]
    return torch.stack([between.abs().max(), (noise**4).mean(0).max()])


def rho_curve(
    guide: Guide,
    posterior: ParameterPosterior,
    users: Users,
    interventions: Interventions,
    level: float,
    rhos: tuple[float, ...] = RHOS,
    seed: int = 0,
    share: float = 1.0,
    progress: str = "",
) -> dict[str, Any]:
    """NDE and NIE on engagement if engagement's error and the platform's noise had correlation rho.

    The correlation is taken along the direction in which the intervention moves the platform, the worst one (Imai,
    Keele & Yamamoto 2010, for latent mediators and log odds).  TE does not hinge on it: what NIE loses, NDE gains.
    Alignment has no such curve, since both of its parts are emissions of the factors themselves.

    Returns
    -------
    dict
        `rho`; at each the intervals of `NDE`, `NIE` and `TE`; and `first_rho_with_zero_in_NIE`, the smallest
        correlation to either side that undoes NIE (None: none of these does), and the same of NDE.
    """
    model, n_platform = guide.model, guide.model.n_platform
    logs = users.logs
    location, scale = model.mechanisms(posterior.mean, logs.exposure_covariates, logs.preference_covariates)
    then = interventions["exposure_covariates"]
    moved, _ = model.mechanisms(posterior.mean, then, logs.preference_covariates)
    inverse = model.graph.inverse(posterior.mean["edges"])
    unit = scale.mean(0)[:n_platform]
    step = ((moved - location) @ inverse.mT).mean(0)[:n_platform] / unit
    direction = step / step.norm().clamp_min(1e-12)
    together = Mediators({"mediators": [*model.graph.names, *sites_of_past(logs)]})  # NIE is not split
    curve: dict[str, Any] = {"rho": list(rhos), "NDE": [], "NIE": [], "TE": []}
    for rho in tqdm(rhos, progress, disable=not progress, leave=False):
        loading = rho * LOGISTIC_SD * direction / unit  # of engagement's log odds on the platform's factors
        changed = replace(
            posterior,
            mean=_without_confounding(model, posterior.mean, loading),
            draws=_without_confounding(model, posterior.draws, loading),
        )
        outcome = {"engagement": partial(_engagement_with_cause, loading=loading)}
        effects = average_effects(
            guide, changed, users, interventions, together, outcome, seed=seed, share=share, whole=False
        )
        for name in ("NDE", "NIE", "TE"):
            curve[name].append(interval(effects.contrasts["engagement"][name], level))
    for part in ("NDE", "NIE"):
        curve[f"first_rho_with_zero_in_{part}"] = min(map(abs, undoing(curve, part)), default=None)
    return curve


def undoing(curve: Mapping[str, Any], part: str = "NIE") -> list[float]:
    """The correlations of a curve at which an effect's interval includes zero, or its sign is not that without any."""
    sign = np.sign(curve[part][int(np.argmin(np.abs(curve["rho"])))]["mean"])
    return [
        rho
        for rho, e in zip(curve["rho"], curve[part], strict=True)
        if sign * e["mean"] <= 0 or e["lower"] <= 0 <= e["upper"]
    ]


def _engagement_with_cause(world: World, loading: Tensor) -> Tensor:
    """Engagement with the common cause put back: it is the user's own, and stays as it was in every world."""
    natural = world.trace.nodes["exposure_covariates"]["value"]
    scale = scale_of(natural, world["platform_log_scale"])
    cause = (scale * world["noise"][..., : len(loading)]) @ loading
    shown, engaged = world.distribution("exposure"), world.distribution("engagement")
    return (shown.probability * (engaged.logits + cause.unsqueeze(-1)).sigmoid()).sum(-1)


def _without_confounding(model: HMVCRL, values: Values, loading: Tensor) -> Values:
    """Coefficients once a common cause has its part of the platform factors' loadings on engagement.

    That part runs through the noise ``(platform - m(c) - sum_j B[j, platform] preference_j) / s``, so what alpha
    loses along the factors is made up for along covariates and preference: the logs are fitted as before.
    """
    p = model.n_platform
    incoming = (values["edges"] * model.graph.allowed.to(values["edges"]))[..., p:, :p]
    return values | {
        "alpha": values["alpha"] - loading,
        "delta": values["delta"] + values["platform_location"] @ loading,
        "delta_bend": values["delta_bend"] + values["platform_bend"] @ loading,
        "a": values["a"] + (incoming @ loading).unsqueeze(-2),
    }


def e_value(ratio: float) -> float:
    """E-value of a ratio of probabilities (VanderWeele & Ding 2017).

    How strongly, as a ratio of risks, an unmeasured cause would have to go with both, to explain the ratio away.

    Examples
    --------
    >>> e_value(1.0), round(e_value(1.5), 2)
    (1.0, 2.37)
    """
    ratio = max(ratio, 1 / ratio)
    return ratio + math.sqrt(ratio * (ratio - 1))


def e_values(levels: Mapping[str, Array], level: float) -> dict[str, dict[str, float]]:
    """E-values of TE, NDE and NIE on a probability: of the ratio, and of the interval's end that is nearer to 1."""
    pairs = {"TE": ("after", "before"), "NDE": ("direct", "before"), "NIE": ("after", "direct")}
    found = {}
    for name, (end, start) in pairs.items():
        ratio = interval(levels[end] / levels[start], level)
        crosses = ratio["lower"] <= 1 <= ratio["upper"]
        nearer = ratio["lower"] if ratio["mean"] > 1 else ratio["upper"]
        found[name] = {"ratio": ratio["mean"], "e_value": e_value(ratio["mean"])}
        found[name] |= {"e_value_of_interval": 1.0 if crosses else e_value(nearer)}
    return found
