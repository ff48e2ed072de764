# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Change the policy
#
# What would these users do, and what would they be shown, if the platform acted otherwise? The model is a Pyro
# program, so the question is one call of `pyro.do`. This notebook makes that call by hand first, on covariates, on a
# factor and on what is shown. Then it lets the package's functions do the same and get the same number, with
# intervals. It ends with the checks: overlap, placebo, negative controls, noise.

# %% [markdown]
# ## Setup

# %%
import json
import os
import tempfile
import warnings
from pathlib import Path

warnings.filterwarnings("ignore", message="IProgress not found")  # no progress bar is shown here

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyro
import torch
from IPython.display import Image

import pyro_hmvcrl as hm
from pyro_hmvcrl.queries import Mediators, Population, average_effects, interventions, natural_effects
from pyro_hmvcrl.queries.averages import factors_by_channel
from pyro_hmvcrl.queries.checks import negative_controls, noise_checks, placebo
from pyro_hmvcrl.queries.findings import interval
from pyro_hmvcrl.report.answer_figures import effects_displacement
from pyro_hmvcrl.report.style import to_bytes
from pyro_hmvcrl.story import at
from pyro_hmvcrl.synthetic import SUBSTITUTION, true_effects

QUICK = bool(os.environ.get("HMVCRL_QUICK"))  # a reduced run, to test that the code works
SEED = 0
USERS = 200 if QUICK else 1_500
ALL, FEWER = (0.02, 0.01) if QUICK else (1.0, 0.25)  # of an answer's draws
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#818b96"
HUES = {"engagement": GREEN, "alignment": ORANGE}
plt.rcParams.update({"figure.dpi": 110, "axes.spines.top": False, "axes.spines.right": False, "font.size": 9})

# %% [markdown]
# ## Question and assumptions
#
# The policy: one unit more of `exposure_1` for every user. Its effects on **engagement** (the probability that a user
# engages with what is shown next) and on **alignment** (the probability that what is shown next is what the user
# would search for).
#
# An intervention needs more than a good fit of the logs:
#
# - *modularity*: the structural equations stay as they are, but for the one that is replaced;
# - *no unmeasured common cause* of the policy covariates and the outcome, given the other covariates; for direct and
#   indirect effects, nor of the factors and the outcome;
# - *overlap*: users with like covariates are seen under the other policy too;
# - *exclusions*: search depends on preference only, exposure on the platform only, and each block of covariates
#   enters its own channel only.

# %% [markdown]
# ## Causal program
#
# A world with known truth, in which the policy raises engagement and lowers alignment, and its logs:

# %%
scratch = tempfile.TemporaryDirectory()
folder = Path(scratch.name)
design = hm.Design.with_knobs(**(SUBSTITUTION | {"users": USERS, "preference_factors": 2, "categories": 12}))
simulation = hm.simulate(design, SEED)
hm.write_simulation(simulation, folder / "logs", SEED)

# %% [markdown]
# The model's structural equations, for factors of the platform ($P$) and of preference ($Q$):
#
# $$
# P_k = m_k(c^P) + s_k(c^P)\,\varepsilon_k + \textstyle\sum_j B_{jk} Q_j, \qquad
# Q_k = m_k(c^Q) + s_k(c^Q)\,\varepsilon_k + \textstyle\sum_j B_{jk} P_j, \qquad
# \varepsilon_k \sim N(0, 1).
# $$
#
# Every left-hand side is a site of the program, and so are the covariates and the noise. `pyro.do` replaces the
# right-hand side of one of them, for all that comes after it. `pyro.condition` on the noise keeps the users what they
# are.

# %% [markdown]
# ## Causal query
#
# | in words | in symbols | in Pyro |
# |---|---|---|
# | another policy | $\operatorname{do}(c^P := c^P + e_1)$ | `pyro.do(program, {"exposure_covariates": shifted})` |
# | a factor moved | $\operatorname{do}(P_1 := P_1 + 1)$ | `pyro.do(program, {"platform_1": moved})` |
# | what is shown, chosen | $\operatorname{do}(\text{exposure} := n)$ | `pyro.do(program, {"exposure": counts})` |
# | the same users | $\varepsilon$ held | `pyro.condition(program, {"noise": noise})` |
#
# The total effect of the policy on an outcome $Y$, over users with their covariates, is a contrast of two worlds with
# the same noise:
#
# $$
# \text{TE} = \mathrm{E}_{\varepsilon}\big[\,Y(\operatorname{do}(c^P + e_1), \varepsilon) - Y(\operatorname{do}(c^P),
# \varepsilon)\,\big].
# $$
#
# It takes three short functions: a world, and the two outcomes as they follow from a world's probabilities.


# %%
def world(program, **forced):
    """What the program computes when these sites are forced."""
    return pyro.poutine.trace(pyro.do(program, data=forced)).get_trace(logs)


def probability(world, site):
    return world.nodes[site]["fn"].probability  # (users, categories)


def by_hand(world):
    """Engagement and alignment of each user."""
    shown = probability(world, "exposure")
    engaged, searched = probability(world, "engagement"), probability(world, "search")
    return {"engagement": (shown * engaged).sum(-1), "alignment": (shown * searched).sum(-1)}


# %% [markdown]
# ## Inference
#
# The window is taken as one period: in this world nothing that is shown owes anything to the past. Notebook 07 is about
# a world where it does.

# %%
steps = {"restarts": 1, "steps": 40, "encoder_steps": 40} if QUICK else {"steps": 500, "encoder_steps": 600}
run = hm.fit(
    folder / "logs",
    platform_factors=2,
    preference_factors=2,
    out=folder / "run",
    progress=False,
    periods=1,
    seed=SEED,
    device="cpu",
    **({"restarts": 2} | steps),
)
logs = run.logs()
model = run.guide.model
torch.set_grad_enabled(False)
print(", ".join(run.factor_names))

# %% [markdown]
# ## Results
#
# ### By hand: two worlds with the same noise
#
# The program at the posterior mean of its parameters, with one draw of every user's noise held. The model reads
# standardised covariates, so one unit of `exposure_1` is one over its standard deviation.

# %%
torch.manual_seed(SEED)
program = at(model, run.posterior.mean)
noise = torch.randn(logs.n_users, model.n_noise)
held = pyro.condition(program, data={"noise": noise})

step = torch.zeros(design.exposure_covariates)
step[0] = 1 / run.standardisation.sd["exposure_1"]
shifted = logs.exposure_covariates + step
before = world(held)
after = world(held, exposure_covariates=shifted)
total = {name: by_hand(after)[name] - y for name, y in by_hand(before).items()}
for name, of_users in total.items():
    print(f"{name}: TE {100 * of_users.mean():+.3f} percentage points")

# %% [markdown]
# Why hold the noise? Let each world draw its own, and the averages still agree up to Monte Carlo error, but the
# contrast of one user is a contrast of two different users:

# %%
one, other = by_hand(world(program)), by_hand(world(program, exposure_covariates=shifted))
for name, of_users in total.items():
    for how, contrast in {"held": of_users, "drawn anew": other[name] - one[name]}.items():
        print(
            f"{name}, noise {how}: mean {100 * contrast.mean():+.1f}, sd over users {100 * contrast.std():.1f}"
        )

# %% [markdown]
# **On a factor.** The same call, another site. What the factor causes moves, what causes it does not. Here it is the
# platform factor that `exposure_1` moves most.

# %%
driven = run.factor_names[int(run.posterior.mean["platform_location"][0].abs().argmax())]
moved = world(held, **{driven: before.nodes[driven]["value"] + 1})
for name in run.factor_names:
    change = moved.nodes[name]["value"] - before.nodes[name]["value"]
    print(f"{name}: {change.mean():+.3f}")

# %% [markdown]
# The trace says `+0.000` for the forced factor itself: under its name stands the *natural* value, what it would have
# been. This is how `pyro.do` works (twin worlds), and a trap. The factors downstream did see the forced value.
#
# **On what is shown.** Every user is shown each category equally often. Nothing upstream of exposure moves, so
# alignment and engagement are now those of a feed that we chose: the chosen shares take the place of the platform's.

# %%
uniform = logs.exposure.sum(-1, keepdim=True).expand_as(logs.exposure) / len(run.categories)
chosen = world(held, exposure=uniform)
for site, outcome in {"engagement": "engagement", "search": "alignment"}.items():
    now, then = by_hand(before)[outcome].mean(), probability(chosen, site).mean()
    print(f"{outcome}: {100 * now:.1f}% as it is, {100 * then:.1f}% with a uniform feed")

# %% [markdown]
# ### The package gives the same number
#
# `interventions` and `mediation` make the same calls, after they have ruled out the traps. `Population.under` carries
# a policy in the covariates' own units to the model's.

# %%
population = Population.of(folder / "run")
policy, support = population.under(hm.add("exposure_1", 1.0), SEED)
mediators = Mediators(factors_by_channel(model))
package = natural_effects(held, (logs,), policy, mediators, hm.OUTCOMES)
direct = world(held, exposure_covariates=shifted, **{f: before.nodes[f]["value"] for f in run.factor_names})
for name, contrasts in package.contrasts.items():
    nde = (by_hand(direct)[name] - by_hand(before)[name]).mean()
    print(f"{name}: TE by hand {100 * total[name].mean():+.4f}, package {100 * contrasts['TE'].mean():+.4f}")
    print(f"{name}: NDE by hand {100 * nde:+.4f}, package {100 * contrasts['NDE'].mean():+.4f}")

# %% [markdown]
# The direct effect takes the new policy and all factors as they were: several sites in one `pyro.do`. A misspelt site
# is silently ignored by `pyro.do`, and refused by the package:

# %%
misspelt = world(held, exposure_covariate=shifted)
print(f"pyro.do: TE {(by_hand(misspelt)['engagement'] - by_hand(before)['engagement']).mean():+.3f}")
try:
    interventions.run(held, (logs,), {"exposure_covariate": shifted})
except hm.InterventionError as error:
    print("package:", error)

# %% [markdown]
# ### With intervals, beside the truth
#
# `average_effects` repeats this with noise drawn anew, many times, at the posterior mean of the parameters; the
# averages' gradients say what they are under each draw from the posterior. These are **interventional** effects, on a
# population with these covariates. With `counterfactual=True` the noise is that
# which the users' own logs speak of: effects on these very users. (Both are natural effects; mediators drawn at random,
# whose effects go by the first name elsewhere, are another thing.)


# %%
def ask(policy, share=ALL, **options):
    return average_effects(
        run.guide, run.posterior, population.users, policy, seed=SEED, share=share, **options
    )


found = {"interventional": ask(policy), "counterfactual": ask(policy, counterfactual=True)}
rows = {}
for kind, answer in found.items():
    truth = true_effects(simulation, {"exposure_1": 1.0}, 100, counterfactual=kind == "counterfactual")
    for outcome, contrasts in answer.contrasts.items():
        for estimand in ("TE", "NDE", "NIE"):
            true = {"truth": truth["outcomes"][outcome][estimand]}
            rows[kind, outcome, estimand] = true | interval(contrasts[estimand], 0.9)
print("percentage points, 90% intervals")
(100 * pd.DataFrame(rows).T).round(2)

# %% [markdown]
# ### Both channels before and after

# %% tags=["thumbnail"]
answer = found["interventional"]
panels = {"densities": {}, "displacement": {f: interval(d, 0.9) for f, d in answer.displacement.items()}}
for factor, values in answer.densities.items():
    ends = np.linspace(*np.quantile(values, [0.002, 0.998]), 41)
    heights = [np.histogram(row, ends, density=True)[0] for row in values]
    panels["densities"][factor] = {
        "at": (ends[1:] + ends[:-1]) / 2,
        "before": heights[0],
        "after": heights[1],
    }
Image(to_bytes(effects_displacement(panels), "png"), width=560)

# %% [markdown]
# *What to see:* the policy moves one platform factor, and one preference factor that the graph hangs on it. The other
# two stay where they were. Factors come in any order and sign, so the true displacements are matched to them by the
# assignment in `report.json`:

# %%
report = json.loads((folder / "run" / "report.json").read_text())["identifiability"]["channels"]
true = true_effects(simulation, {"exposure_1": 1.0}, 100)["displacement"]
rows = {}
for channel, of_channel in report.items():
    for k, (j, sign) in enumerate(
        zip(of_channel["mcc"]["assignment"], of_channel["mcc"]["signs"], strict=True)
    ):
        fitted = f"{channel}_{j + 1}"
        rows[fitted] = {"true": sign * true[f"{channel}_{k + 1}"]} | panels["displacement"][fitted]
print("displacement, standard deviations of the factor before")
pd.DataFrame(rows).T.round(3)

# %% [markdown]
# ### Other policies
#
# A policy is any function of the exposure covariates; an intervention may be on a factor or a whole channel.


# %%
def capped(covariates, rng):
    """Nobody gets more of exposure_1 than the median user."""
    return covariates.assign(
        exposure_1=covariates["exposure_1"].clip(upper=covariates["exposure_1"].median())
    )


changes = {
    "exposure_1 + 1": policy,
    "exposure_1 capped at its median": population.under(capped, SEED)[0],
    f"{driven} + 1 sd": {driven: hm.add(driven, 1.0, in_sd=True).force(population.sd_of(driven))},
}
rows = {}
for name, change in changes.items():
    contrasts = ask(change, FEWER).contrasts
    rows[name] = {outcome: f"{100 * contrasts[outcome]['TE'].mean():+.1f}" for outcome in contrasts}
print("TE, percentage points")
pd.DataFrame(rows).transpose()

# %% [markdown]
# ## What could go wrong
#
# ### Overlap: a policy beyond the data
#
# The further the policy, the fewer users have ever been seen near it. `Population.under` counts those who leave the
# support; in this world we can see what becomes of the answer.

# %%
sizes = (-1.0, 1.0, 2.0, 3.0)
doses = {size: population.under(hm.add("exposure_1", size), SEED) for size in sizes}
curve = {size: ask(change, FEWER).contrasts for size, (change, _) in doses.items()}
truths = {size: true_effects(simulation, {"exposure_1": size})["outcomes"] for size in sizes}
for size, (_, overlap) in doses.items():
    print(f"{size:+.0f}: {overlap.verdict}")
try:
    run.effects("exposure_1=+3.0", progress=False)
except hm.InterventionError as error:
    print("run.effects:", error)

# %%
figure, axes = plt.subplots(1, 2, figsize=(8.5, 3.2), layout="constrained")
for ax, (outcome, hue) in zip(axes, HUES.items(), strict=True):
    ax.axhline(0, color=GREY, lw=0.8, zorder=0)
    for size in sizes:
        e = {k: 100 * v for k, v in interval(curve[size][outcome]["TE"], 0.9).items()}
        fill = hue if doses[size][1].outside <= 0.1 else "white"
        ax.vlines(size, e["lower"], e["upper"], color=hue, lw=2.5)
        ax.plot(size, e["mean"], "o", color=hue, mfc=fill, ms=4.5)
        ax.plot(size + 0.2, 100 * truths[size][outcome]["TE"], "_", color="black", ms=9, mew=1.5)
    ax.set_xticks(sizes, [f"{size:+.0f}\n({doses[size][1].outside:.0%})" for size in sizes])
    ax.set(
        xlabel="shift of exposure_1 (sd)\n(share of users outside the data)",
        ylabel="TE (percentage points)",
        title=outcome,
    )
axes[0].plot([], [], "o", color=GREY, label="model, 90% interval")
axes[0].plot([], [], "o", color=GREY, mfc="white", label="more than 10% outside")
axes[0].plot([], [], "_", color="black", mew=2, ms=10, label="truth")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
figure.suptitle("Beyond the data the answer rests on the model's form", weight="bold")
plt.show()

# %% [markdown]
# *What to see:* hollow circles are extrapolations. Their intervals are those of the parameters, given that the form
# of the equations holds out there; no interval says how wrong the form is. In this world the form is right by
# construction, so agreement with the truth at three standard deviations is a gift that real logs do not make.
#
# ### Placebo: a policy that does nothing
#
# A copy of the exposure covariates, dealt out anew among the users, has coefficients of its own in the model. In
# truth they are zero, and so are the effects of shifting it.

# %%
dealt = placebo(run.guide, run.posterior, population.users, policy["exposure_covariates"], 0.9, SEED)
print(f"{dealt['covers_zero']} of {dealt['of']} intervals cover zero")
print(f"as far from zero as the farthest of them, were all zero: probability {dealt['p']:.2f}")

# %%
estimands = ["TE", "NDE", "NIE", "NIE_platform", "NIE_preference"]
figure, axes = plt.subplots(1, 2, figsize=(8.5, 2.9), sharey=True, layout="constrained")
for ax, (outcome, hue) in zip(axes, HUES.items(), strict=True):
    ax.axvline(0, color=GREY, lw=0.8, zorder=0)
    for y, estimand in enumerate(estimands):
        real, nothing = (
            interval(answer.contrasts[outcome][estimand], 0.9),
            dealt["outcomes"][outcome][estimand],
        )
        ax.hlines(y - 0.13, 100 * real["lower"], 100 * real["upper"], color=hue, lw=5)
        ax.hlines(y + 0.17, 100 * nothing["lower"], 100 * nothing["upper"], color=GREY, lw=5)
    ax.set(title=outcome, xlabel="change (percentage points)", ylim=(4.6, -0.6))
axes[0].set_yticks(range(5), [e.replace("_", " by ") for e in estimands])
axes[0].hlines([], [], [], color=GREEN, lw=5, label="exposure_1 + 1 (90% interval)")
axes[0].hlines([], [], [], color=GREY, lw=5, label="placebo")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
figure.suptitle("The policy's effects stand out from what nothing looks like", weight="bold")
plt.show()

# %% [markdown]
# *What to see:* grey is the width of an effect that is none. An effect of the policy that does not stand out from it
# is none that these logs can show. The grey intervals share one deal of the covariates, so that where one misses zero,
# several do: they are judged by one probability for all, read off their joint draws.
#
# ### Negative controls: is there a way past the graph?
#
# Exposure covariates must not predict the noise of preference, nor preference covariates that of the platform: in the
# model they reach the other channel through the graph alone.

# %%
for name, control in negative_controls(run.guide, run.posterior, population.users, SEED).items():
    print(
        f"{name}: R² {control['r2']:.3f} (dealt out anew, at most {control['null']:.3f}): {control['verdict']}"
    )

# %% [markdown]
# ### Noise: is what is left as the story has it?
#
# What covariates and graph leave open of the factors should be normal, and of one channel independent of the other's.
# A cause of both channels that was not measured would make the channels' noise correlate.

# %%
for name, check in noise_checks(run.guide, run.posterior, population.users, SEED).items():
    print(
        f"{name}: {check['noise']:.3f} (by chance {check['prior']:.3f}, p {check['p']:.2f}): {check['verdict']}"
    )
scratch.cleanup()

# %% [markdown]
# ### What no check sees
#
# - *A common cause* of the policy covariates and engagement leaves all of these as they are. The E-value of TE in
#   `effects` says how strong it would have to be. Its sensitivity curve is about a cause of the platform's factors and
#   engagement, which moves the split of TE and not TE.
# - *A past.* A platform that learns within the window moves what is shown past its factors; one period has no place
#   for it. The regression that `effects` puts beside every answer to a policy sees it (notebook 07).
# - *Modularity.* Preference follows the platform's factors along the graph's edges, as strongly as in these logs.
#   What a feed does to tastes over a longer time than the window is not in these effects.
# - *Factors that are not identified.* Interventions on single factors then have no meaning; those on covariates
#   keep theirs, as do their total effects. The verdict on identifiability says which case it is.
# - *One seed.* For bias and coverage over many worlds, see `simulations/README.md`.
#
# `run.effects(change)` and the command `pyro-hmvcrl effects` ask all of this at once.

# %% [markdown]
# ## Exercises
#
# 1. **A policy of your own.** Write one that caps `exposure_1` at its 80th percentile (a function of the covariates,
#    as in `docs/policies.md`). How many users does it touch, and what share of the effect of the full shift does it
#    keep?
# 2. **A factor by force.** Raise `platform_2` by one standard deviation with `run.effects("platform_2=+1sd")`. Why is
#    there no placebo, and why no regression?
# 3. **Where support ends.** Find the largest shift that is not refused, to one decimal. Then refit with half the
#    users: does it move?
