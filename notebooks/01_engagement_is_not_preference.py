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
# # Engagement is not preference
#
# A platform changes a policy, and engagement rises: in the logs, and in a randomised experiment. Is the change good
# for users? This notebook builds a world in which the answer is known, and is no: users engage more with a feed that
# shows them less of what they look for. Then it asks the model, which sees nothing but the logs.

# %% [markdown]
# ## Setup

# %%
import inspect
import os
import tempfile
import warnings
from pathlib import Path

warnings.filterwarnings("ignore", message="IProgress not found")  # no progress bar is shown here

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import pyro_hmvcrl as hm
from pyro_hmvcrl.queries import Population, average_effects
from pyro_hmvcrl.queries.checks import negative_controls
from pyro_hmvcrl.queries.findings import interval, sentences
from pyro_hmvcrl.story import HMVCRL
from pyro_hmvcrl.synthetic import SUBSTITUTION, draw_world, true_effects
from pyro_hmvcrl.synthetic.truth import outcomes

QUICK = bool(os.environ.get("HMVCRL_QUICK"))  # a reduced run, to test that the code works
SEED = 0
USERS = 200 if QUICK else 1_500
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#818b96"
plt.rcParams.update({"figure.dpi": 110, "axes.spines.top": False, "axes.spines.right": False, "font.size": 9})

# %% [markdown]
# ## Question and assumptions
#
# **The policy.** `exposure_1` is a covariate that describes what the platform does to a user, in standard deviations:
# say, how strongly the feed pushes what is popular. The policy gives every user one standard deviation more of it.
#
# **Two outcomes**, both averages over users:
#
# - *engagement*, $\sum_c p_{\text{shown}}(c)\, p_{\text{engage}}(c)$ over the categories $c$: the probability that the
#   user engages with what is shown next;
# - *alignment*, $\sum_c p_{\text{shown}}(c)\, p_{\text{searched}}(c)$: the probability that what is shown next is of
#   the category that the user would search for.
#
# **Why search.** Recommendations are started by the platform, searches by the user. So search is the surface that is
# closer to preference.
#
# **What the model assumes** (true here, by construction):
#
# - what is searched depends on the preference factors only, what is shown on the platform factors only;
# - each channel has covariates of its own, which move the location and the scale of its factors;
# - edges run between channels only, without cycles;
# - nothing unmeasured is a cause of the policy covariate and of engagement, nor, for the split of the effect into a
#   direct and an indirect one, of the factors and of engagement.

# %% [markdown]
# ## Causal program
#
# A user has exposure covariates $c^P$, preference covariates $c^Q$ and noise $\varepsilon_k \sim N(0, 1)$. The factors
# follow from these by structural equations, with weights $B$ of the edges; the events follow from the factors:
#
# $$
# \begin{aligned}
# \text{platform}_k &= m_k(c^P) + s_k(c^P)\,\varepsilon_k + \textstyle\sum_j B_{jk}\,\text{preference}_j \\
# \text{preference}_k &= m_k(c^Q) + s_k(c^Q)\,\varepsilon_k + \textstyle\sum_j B_{jk}\,\text{platform}_j \\
# \text{search} &\sim \text{Categorical}\{\operatorname{softmax} f_S(\text{preference})\} \\
# \text{exposure} &\sim \text{Categorical}\{\operatorname{softmax} f_E(\text{platform})\} \\
# \text{engagement} &\sim \text{Bernoulli}\{\operatorname{expit}(
#     b_c + a_c^\top \text{preference} + \alpha^\top \text{platform} + \delta(c^P) + \text{readiness})\}
# \end{aligned}
# $$
#
# In Pyro, line by line:

# %%
print(inspect.getsource(HMVCRL.forward))

# %% [markdown]
# The simulator tells the same story in numpy, with parameters that we know. In the world below `exposure_1` acts on
# engagement twice: directly for the better ($\delta$), and for the worse through `platform_1`, which turns what is
# shown away from what is sought.

# %%
design = hm.Design.with_knobs(**(SUBSTITUTION | {"users": USERS, "preference_factors": 2, "categories": 12}))
world = draw_world(design, SEED)
now = hm.simulate(design, SEED, world)
changed = hm.simulate(design, SEED, world, {"exposure_1": 1.0})  # the same users and noise, the other policy
print(f"{USERS} users, {now.search.sum():.0f} searches, {now.exposure.sum():.0f} items shown")

# %% [markdown]
# ## Causal query
#
# ### What a dashboard says
#
# Evidence on engagement comes in two forms. *Observational*: the regression of users' engagement rates on
# `exposure_1`. *Experimental*: the policy for a random half of the users, and the difference between the arms.

# %%
dose = now.exposure_covariates[:, 0]
rate, changed_rate = (sim.engagement.sum(1) / sim.exposure.sum(1) for sim in (now, changed))
slope, level = np.polyfit(dose, rate, 1)
treated = np.random.default_rng(SEED).permutation(USERS) < USERS // 2
old, new = rate[~treated], changed_rate[treated]
difference, error = new.mean() - old.mean(), np.hypot(new.std() / new.size**0.5, old.std() / old.size**0.5)
print(f"slope of the engagement rate: {100 * slope:+.1f} percentage points for each sd of exposure_1")
print(f"experiment: {100 * difference:+.1f} percentage points, standard error {100 * error:.1f}")

# %%
figure, (left, right) = plt.subplots(
    1, 2, figsize=(8, 3.1), sharey=True, layout="constrained", width_ratios=[1.7, 1]
)
bins = pd.DataFrame({"dose": dose, "rate": rate}).groupby(pd.qcut(dose, 10, labels=False))
at, means = bins.mean().to_numpy().T
left.errorbar(at, 100 * means, 196 * bins["rate"].sem(), fmt="o", color=GREEN)
left.plot(at, 100 * (level + slope * at), color=GREEN)
left.set(xlabel="exposure_1 (sd), tenths of the users", ylabel="engagement rate (%)", title="in the logs")
for x, arm in enumerate((old, new)):
    right.errorbar(x, 100 * arm.mean(), 196 * arm.std() / arm.size**0.5, fmt="o", color=GREEN)
right.set_xticks([0, 1], ["as now", "one sd more\nof exposure_1"])
right.set(xlim=(-0.6, 1.6), title="in a randomised experiment")
figure.suptitle("By engagement, the policy is a success (means, 95% intervals)", weight="bold")
plt.show()

# %% [markdown]
# *What to see:* engagement rises with the policy, in the logs and in the experiment. The experiment is unbiased for the
# total effect; the slope comes near it, as nothing confounds it here. The wrong thing is what both estimate.
#
# ### What is true
#
# The world is ours, so we can intervene in it: the same users with the same noise, at several doses of the policy.

# %%
doses = np.linspace(-1, 2, 7)
worlds = [hm.simulate(design, SEED, world, {"exposure_1": dose}) for dose in doses]
levels = 100 * np.array([outcomes(world, sim.exposure_covariates, sim.factors) for sim in worlds])
truth = pd.DataFrame(levels, columns=["engagement", "alignment"], index=pd.Index(doses, name="shift (sd)"))
for name, percent in truth.items():
    print(f"{name}: {percent[0.0]:.1f}% as now, {percent[1.0]:.1f}% with one sd more of exposure_1")

# %% tags=["thumbnail"]
figure, axes = plt.subplots(1, 3, figsize=(9, 3.2), layout="constrained", width_ratios=[1, 1, 1.6])
for ax, (name, percent), hue in zip(axes, truth.items(), (GREEN, ORANGE), strict=False):
    ax.plot(percent, "o-", color=hue)
    ax.set(xlabel="shift of exposure_1 (sd)", ylabel=f"{name} (%)", title=name)
    ax.set_ylim(0, 1.15 * percent.max())
order = np.argsort(-now.search.sum(0))
counts = (now.search, now.exposure, changed.exposure)
searched, before, after = (100 * c.sum(0)[order] / c.sum() for c in counts)
x = np.arange(design.categories)
axes[2].plot(x, searched, "_", color=ORANGE, ms=10, mew=2.5, label="searched for")
axes[2].vlines(x, before, after, color=BLUE, lw=1.5)
axes[2].plot(x, before, "o", color=BLUE, mfc="white", label="shown as now")
axes[2].plot(x, after, "o", color=BLUE, label="shown, one sd more of exposure_1")
axes[2].set(xlabel="category, the most searched first", ylabel="share of events (%)", title="categories")
axes[2].set(xticks=[], ylim=(0, None))
axes[2].legend(frameon=False, fontsize=8)
figure.suptitle("The truth: engagement rises, and users are shown less of what they look for", weight="bold")
plt.show()

# %% [markdown]
# *What to see:* on the left engagement rises; in the middle alignment falls; on the right, why: the policy takes
# exposure from the categories that users search for most, and gives it to some which they hardly search for. This is
# **substitution**: what users look for has been replaced, and engagement rewards it.
#
# ### The estimand
#
# For outcomes $Y$ of the two kinds, the policy's total effect
#
# $$
# \text{TE} = \mathrm{E}\,Y\{\operatorname{do}(c^P + e_1)\} - \mathrm{E}\,Y\{\operatorname{do}(c^P)\},
# $$
#
# and its parts: the natural direct effect NDE, with the factors as they were before, and the natural indirect effect
# NIE = TE − NDE, through the platform factors and on through preference. Each $Y\{\cdot\}$ is one run of the program
# under `pyro.do`.

# %% [markdown]
# ## Inference
#
# The model gets what a platform has: a folder of logs and covariates, under the policy as it is now. It does not get
# the parameters, the factors, or the experiment.

# %%
steps = {"restarts": 1, "steps": 40, "encoder_steps": 40} if QUICK else {"steps": 500, "encoder_steps": 600}
with tempfile.TemporaryDirectory() as folder:
    hm.write_simulation(now, Path(folder) / "logs", SEED, truth=False)
    run = hm.fit(
        Path(folder) / "logs",
        platform_factors=2,
        preference_factors=2,
        out=Path(folder) / "run",
        progress=False,
        periods=1,
        seed=SEED,
        device="cpu",
        **({"restarts": 2} | steps),
    )
    population = Population.of(run.folder)

# %% [markdown]
# The policy becomes an intervention on the covariates. Its effects are averaged over the users at the posterior mean of
# the parameters; the averages' gradients say what they are under each draw from the posterior (the delta method).

# %%
interventions, support = population.under(hm.add("exposure_1", 1.0), SEED)
draws = average_effects(
    run.guide, run.posterior, population.users, interventions, seed=SEED, share=0.02 if QUICK else 1.0
)
print(support.verdict)

# %% [markdown]
# ## Results
#
# The true effects, by Monte Carlo in the simulator, beside the model's means and 90% intervals:

# %%
estimands = ["TE", "NDE", "NIE", "NIE_platform", "NIE_preference"]
true = true_effects(now, {"exposure_1": 1.0}, draws=100)["outcomes"]
rows = {
    (outcome, estimand): {"truth": true[outcome][estimand]}
    | interval(draws.contrasts[outcome][estimand], 0.9)
    for outcome in true
    for estimand in estimands
}
table = 100 * pd.DataFrame(rows).T
print("percentage points")
table.round(2)

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True, layout="constrained")
for ax, outcome, hue in zip(axes, true, (GREEN, ORANGE), strict=True):
    found = table.loc[outcome]
    ax.axvline(0, color=GREY, lw=0.8, zorder=0)
    ax.hlines(range(5), found["lower"], found["upper"], color=hue, lw=6)
    ax.plot(found["truth"], range(5), "|", color="black", ms=15, mew=1.5, label="truth")
    ax.set(title=outcome, xlabel="change (percentage points)", ylim=(4.5, -0.8))
axes[0].plot([], [], color=GREY, lw=6, label="model, 90% interval")
axes[0].plot(100 * slope, -0.45, "v", color=GREY, label="slope in the logs")
axes[0].set_yticks(
    range(5), ["total (TE)", "direct (NDE)", "indirect (NIE)", "NIE by platform", "NIE by preference"]
)
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
figure.suptitle("The model, from the logs alone: engagement rises, alignment falls", weight="bold")
plt.show()

# %%
for sentence in sentences(draws.contrasts):
    print(sentence)

# %% [markdown]
# *What to see:* in the top row the total effect on engagement lies above zero and that on alignment below it, as in
# truth. The rows below take the total on engagement apart: a direct effect for the better, and an indirect one for the
# worse which hides a part of it (**suppression**). On alignment there is no direct effect, by its definition. The
# slope, alone, is one number that calls the policy a success.

# %% [markdown]
# ## What could go wrong
#
# **One world, one seed.** How often the intervals cover, and how often substitution is found over many worlds, those
# without it among them, is counted in `simulations/README.md`.
#
# **Does one need the model to see this?** Not in an experiment, once it occurs to one to look. The overlap of what a
# user is shown with what the user searches can be had from shares of events:


# %%
def shares_overlap(sim):
    shown, searched = (counts / counts.sum(1, keepdims=True) for counts in (sim.exposure, sim.search))
    return (shown * searched).sum(1)


old, new = shares_overlap(now)[~treated], shares_overlap(changed)[treated]
error = np.hypot(new.std() / new.size**0.5, old.std() / old.size**0.5)
print(f"experiment, overlap of shares: {100 * (new.mean() - old.mean()):+.1f} points, se {100 * error:.1f}")
print(f"truth, alignment:              {100 * true['alignment']['TE']:+.1f} points")

# %% [markdown]
# What takes a model is the parts of the effect, and an answer before there is an experiment, for any policy on the same
# covariates that the data support.
#
# **Assumptions that may fail**, and what warns:
#
# - *The policy covariate and engagement have a common cause.* In these logs `exposure_1` is as good as randomised, so
#   that the slope has the right sign and about the right size. In real logs it may not be, and no figure of the fit
#   shows it. The E-value of TE in `effects` says how strong such a cause would have to be. Its sensitivity curve is
#   about another one, of the platform's factors and engagement, which moves the split of TE and not TE.
# - *Search follows the platform past the factors.* Where suggested queries steer it, alignment measures the platform
#   against itself: mark them (the column `suggested`). The negative controls below warn where the covariates of one
#   channel predict the noise of the other.
# - *The platform learns within the window.* In this world it does not, and the fit is told so (`periods=1`).
#   Notebook 07 has one that does.
# - *Covariates that are weak, or move location only.* The factors come back rotated, and effects through single factors
#   mean little. The verdict on identifiability in `report.json` says so.
# - *A policy beyond the data.* The overlap verdict, printed above, counts users who leave the support (notebook 04).
# - *Alignment is not welfare.* It is agreement with what people look for. Whether a feed should show them other things
#   as well is no question of statistics.

# %%
controls = negative_controls(run.guide, run.posterior, population.users, SEED)
for name, found in controls.items():
    print(f"{name}: R² {found['r2']:.3f}, {found['verdict']}")

# %% [markdown]
# ## Exercises
#
# 1. **Turn the sign.** Set `substitution` to −0.8 in the design: what is pushed is then what users look for. Say
#    before you run it what the slope, the experiment and alignment will show, and whether there is suppression left.
# 2. **An experiment that is none.** Give the policy to the users whose true `preference_1` is above its median, not to
#    a random half. Which comparison goes wrong, by how much, and would any figure of the fit tell?
# 3. **The price.** From the table of effects: how many points of engagement does one point of alignment cost? Put an
#    interval to it, by the draws in `draws.contrasts`.
