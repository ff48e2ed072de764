"""What is true of a world: the effects of a policy shift, and its edges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pyro_hmvcrl.synthetic import loop
from pyro_hmvcrl.synthetic.design import Array, shift_vector
from pyro_hmvcrl.synthetic.loop import play
from pyro_hmvcrl.synthetic.simulation import Simulation
from pyro_hmvcrl.synthetic.world import World, sigmoid, softmax

EFFECT_DRAWS = 20  #: noise draws a user in the Monte Carlo of the true effects


def true_effects(
    sim: Simulation,
    shift: Mapping[str, float],
    draws: int = EFFECT_DRAWS,
    seed: int = 0,
    counterfactual: bool = False,
) -> dict[str, Any]:
    """True effects of a policy shift, averaged over the users' covariates and `draws` of their noise.

    Interventional (population) effects: TE, NDE, NIE and the split of NIE by channel, for engagement, alignment and
    (where the world has it) `liked`, and each factor's displacement in standard deviations of the factor before the
    shift.  Or, with the users' own noise, the counterfactual ones of these very users; where there is a loop, the
    events are drawn anew.

    Raises
    ------
    ValueError
        If a name is not an exposure covariate.
    """
    w, rng = sim.world, np.random.default_rng([seed, 3])
    before = sim.exposure_covariates
    after = before + shift_vector(w.design, shift)
    worlds: list[Array] = []
    displacement = []
    for number in range(1 if counterfactual and w.loop is None else draws):
        noise = sim.noise if counterfactual else rng.normal(size=sim.noise.shape)
        z0, z1 = (_factors(w, c, sim.preference_covariates, noise) for c in (before, after))
        p1_q0 = np.hstack([z1[:, w.platform], z0[:, w.preference]])
        states = ((before, z0), (after, z0), (after, p1_q0), (after, z1))
        if w.loop is None:
            y = [np.array(outcomes(w, c, z)) for c, z in states]
            worlds.append(np.array([*y, y[-1]]))
        else:  # the past as it was, and at last as it becomes
            numbers, chance = sim.numbers, (seed, 6, number)
            as_before, becomes = (play(w, c, z, numbers, chance) for c, z in ((before, z0), (after, z1)))
            y = [loop.outcomes(w, c, z, as_before, numbers.weights) for c, z in states]
            worlds.append(np.array([*y, loop.outcomes(w, after, z1, becomes, numbers.weights)]))
        displacement.append((z1 - z0).mean(0) / z0.std(0))
    y = np.mean(worlds, 0)  # (5 worlds, outcomes)
    contrasts = {
        "TE": y[4] - y[0],
        "NDE": y[1] - y[0],
        "NIE": y[4] - y[1],
        "NIE_platform": y[2] - y[1],
        "NIE_preference": y[3] - y[2],
        "NIE_loop": y[4] - y[3],
    }
    return {
        "shift": dict(shift),
        "outcomes": {
            outcome: {name: float(value[i]) for name, value in contrasts.items()}
            for i, outcome in enumerate(("engagement", "alignment", *(["liked"] if w.liking else [])))
        },
        "displacement": dict(zip(w.design.factor_names, np.mean(displacement, 0).tolist(), strict=True)),
    }


def outcomes(world: World, exposure_covariates: Array, z: Array) -> tuple[float, ...]:
    """Mean engagement, mean alignment of what is shown with what the user would search for, and mean liking."""
    shown = softmax(world.exposure.logits(z[:, world.platform]))
    searched = softmax(world.search.logits(z[:, world.preference]))
    engaged = sigmoid(world.engagement_logits(z, exposure_covariates))
    of_shown = [engaged, searched]
    if world.liking:
        of_shown.append(sigmoid(world.liked_logits(z, exposure_covariates)))
    return tuple(float((shown * y).sum(1).mean()) for y in of_shown)


def true_edges(sim: Simulation) -> list[dict[str, Any]]:
    """Every cross-channel edge's true weight, standardised as in a run's ``graph.csv`` (0: absent)."""
    names, sd = sim.world.design.factor_names, sim.factors.std(0)
    standardised = sim.world.edges * sd[:, None] / sd
    return [
        {"source": names[j], "target": names[k], "weight": float(standardised[j, k])}
        for j, k in np.ndindex(*standardised.shape)
        if names[j].split("_")[0] != names[k].split("_")[0]
    ]


def _factors(world: World, exposure_covariates: Array, preference_covariates: Array, noise: Array) -> Array:
    location, scale = world.mechanisms(exposure_covariates, preference_covariates)
    return world.through_graph(location + scale * noise)
