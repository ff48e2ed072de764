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
# # Mediation and the suppressor
#
# A policy of the platform may raise engagement on one path and lower it on another. Then the total effect is small,
# or of the sign that one likes, and both paths stay unseen. This notebook builds the natural effects that take the
# paths apart, each from two or three calls of `pyro.do` and `pyro.condition` in the open; shows that
# `pyro_hmvcrl.queries.mediation` gives the same numbers; and then estimates them from logs, beside the truth.
#
# ## Setup

# %%
import os
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path

warnings.filterwarnings("ignore", message="IProgress not found")  # no progress bar is shown here

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyro
import torch
from IPython.display import display

import pyro_hmvcrl as hm
from pyro_hmvcrl.inference import screen
from pyro_hmvcrl.inference.svi import tensors_of
from pyro_hmvcrl.queries import Mediators, Users, average_effects, hold, natural_effects
from pyro_hmvcrl.queries.averages import factors_by_channel
from pyro_hmvcrl.queries.checks import LOGISTIC_SD, RHOS, e_values, rho_curve
from pyro_hmvcrl.queries.findings import interval, proportion_mediated, sentences
from pyro_hmvcrl.queries.overlap import overlap
from pyro_hmvcrl.report import style
from pyro_hmvcrl.report.answer_figures import effects_sensitivity
from pyro_hmvcrl.run import parameter_posterior
from pyro_hmvcrl.story import HMVCRL, Logs, at, observe
from pyro_hmvcrl.synthetic import SUBSTITUTION, true_effects
from pyro_hmvcrl.synthetic.world import sigmoid

QUICK = bool(os.environ.get("HMVCRL_QUICK"))
USERS, RESTARTS, STEPS, DRAWS = (120, 1, 10, 5) if QUICK else (1_000, 2, 400, 200)
ALL, FEWER = (0.02, 0.01) if QUICK else (1.0, 0.125)  # of an answer's draws
ESTIMANDS = {e: name for e, name in style.ESTIMANDS.items() if e != "NIE_loop"}  # one period has none
PLATFORM, PREFERENCE, ENGAGEMENT, GREY, INK = "#0072B2", "#D55E00", "#009E73", "#818b96", "#24292f"
plt.rcParams.update({"figure.dpi": 110, "font.size": 9, "axes.spines.top": False, "axes.spines.right": False})

# %% [markdown]
# ## Question and assumptions
#
# **Question.** The platform turns up one of its exposure covariates: $a \to a' = a + 1$. How much of what this does
# to engagement is direct, how much runs through the platform's factors $P$, and how much through preference $Q$?
#
# Write $Y(a, p, q)$ for a user's outcome if the policy were $a$ and the factors $p, q$, and $P(a), Q(a)$ for the
# factors that the user has under $a$. The **natural effects** (Pearl 2001; Imai, Keele & Tingley 2010) are
#
# $$
# \begin{aligned}
# \text{TE} &= E\,[\,Y(a', P(a'), Q(a')) - Y(a, P(a), Q(a))\,] \\
# \text{NDE} &= E\,[\,Y(a', P(a), Q(a)) - Y(a, P(a), Q(a))\,] \\
# \text{NIE}_{\text{platform}} &= E\,[\,Y(a', P(a'), Q(a)) - Y(a', P(a), Q(a))\,] \\
# \text{NIE}_{\text{preference}} &= E\,[\,Y(a', P(a'), Q(a')) - Y(a', P(a'), Q(a))\,]
# \end{aligned}
# $$
#
# and $\text{TE} = \text{NDE} + \text{NIE}$, $\text{NIE} = \text{NIE}_{\text{platform}} +
# \text{NIE}_{\text{preference}}$. The world of $Y(a', P(a), Q(a))$ is **cross-world**: the policy is new, the
# mediators are those of the same user under the old one. No experiment on users shows it; a structural model does.
#
# Two outcomes, both probabilities about the item that is shown next:
#
# - **engagement** $= \sum_c p_{\text{shown}}(c)\, p_{\text{engages}}(c)$,
# - **alignment** $= \sum_c p_{\text{shown}}(c)\, p_{\text{searched}}(c)$: it is what the user would search for.
#
# **Suppression** (inconsistent mediation: MacKinnon, Krull & Lockwood 2000): NDE and NIE have opposite signs.
# **Substitution**: engagement rises while alignment falls.
#
# **Assumptions** beyond those of the model (notebook 02):
#
# 1. *No unmeasured cause of mediators and outcome*, given covariates: no rival to the factors. Untestable; the
#    sensitivity analysis below says what its failure would do.
# 2. *No mediator-outcome confounder that the policy itself moves*, other than the factors in the graph.
# 3. *Cross-world noise*: a user's noise is the same under $a$ and $a'$. This is what the structural equations say.
# 4. *Overlap*: users with covariates like $a'$ exist in the data.
#
# ## Causal program
#
# A small world with known truth, in which the policy does harm that its total effect hides: the design `SMALL` of
# `simulations/effects.py`. One more unit (here one standard deviation) of `exposure_1` acts on engagement directly
# for the better; and through `platform_1` it shows users less of what they look for and engage with.

# %%
design = hm.Design(**(SUBSTITUTION | {"users": USERS, "preference_factors": 2, "categories": 12}))
sim = hm.simulate(design, 0)
w = sim.world
logs = Logs.of(*sim.observed)
print("edges of the true graph:", design.edges)
print("direct effect on the log odds (delta):", w.engagement_direct.round(2))
print("platform factors on the log odds (alpha):", w.engagement_platform.round(2))

# %% [markdown]
# First the estimands at the **true parameters**, so that nothing is estimated yet. `at` puts parameters into the
# Pyro model; `observe` conditions on the events, so that none are drawn; and `pyro.condition` holds the users' true
# noise.

# %%
truth = {name: torch.as_tensor(array, dtype=torch.float32) for name, array in w.parameters().items()}
model = HMVCRL(2, 2, 5, 5, 12).requires_grad_(False)  # nothing is fitted with this one
model.graph.orient(truth["edges"])
program = observe(at(model, truth), logs)
noise = torch.nn.functional.pad(torch.as_tensor(sim.noise, dtype=torch.float32), (0, 1))  # of readiness: none
same_users = pyro.condition(program, data={"noise": noise})

# %% [markdown]
# ## Causal query
#
# ### Worlds, by hand
#
# `same_users(logs)` returns the factors $z = (P, Q)$. A world's outcome is read off the distributions of its
# events.


# %%
def outcome(program):
    sites = pyro.poutine.trace(program).get_trace(logs).nodes
    shown, engaged, searched = (sites[s]["fn"].probability for s in ("exposure", "engagement", "search"))
    return torch.stack([(shown * engaged).sum(-1), (shown * searched).sum(-1)])  # (2 outcomes, users)


def forced(platform, preference):
    columns = [*platform[:, :2].T, *preference[:, 2:].T]
    return dict(zip(model.graph.names, columns, strict=True))


# %% [markdown]
# Two plain worlds: before, and under the policy $a'$.

# %%
policy = {"exposure_covariates": logs.exposure_covariates + torch.eye(5)[0]}
changed = pyro.do(same_users, data=policy)
z, z_new = same_users(logs), changed(logs)  # P(a), Q(a) and P(a'), Q(a')
before, after = outcome(same_users), outcome(changed)

# %% [markdown]
# Two cross-world ones: the policy is $a'$, and the mediators are forced to what they were, all of them or
# preference only.

# %%
direct = outcome(pyro.do(same_users, data=policy | forced(z, z)))  # Y(a', P(a), Q(a))
by_platform = outcome(pyro.do(same_users, data=policy | forced(z_new, z)))  # Y(a', P(a'), Q(a))
hand = {"TE": after - before, "NDE": direct - before, "NIE": after - direct}
hand |= {"NIE_platform": by_platform - direct, "NIE_preference": after - by_platform}

# %% [markdown]
# That is all. `mediation.natural_effects` does the same for any Pyro program whose mediators are sites, and
# `synthetic.true_effects` computes the truth in numpy, without Pyro. The users and their noise are the same in all
# three, so that these are the **counterfactual** effects of these very users.

# %%
mediators = Mediators(factors_by_channel(model))
package = natural_effects(same_users, (logs,), policy, mediators, hm.OUTCOMES).contrasts
numpy_truth = true_effects(sim, {"exposure_1": 1.0}, counterfactual=True)["outcomes"]
rows = {}
for i, name in enumerate(hm.OUTCOMES):
    for estimand, by_user in hand.items():
        rows[name, estimand] = {"by hand": by_user[i].mean().item()}
        rows[name, estimand] |= {"mediation.py": package[name][estimand].mean().item()}
        rows[name, estimand] |= {"numpy": numpy_truth[name][estimand]}
exact = pd.DataFrame(rows).T
print(f"largest difference: {exact.sub(exact['by hand'], axis=0).abs().max().max():.1e}")
exact.round(4)

# %% [markdown]
# ### What the total effect hides


# %% tags=["thumbnail"]
def staircase(ax, heights, title):
    low, high = min(heights), max(heights)
    floor = low - 0.6 * (high - low)
    starts, ends = [floor, *heights[:3], floor], [*heights, heights[-1]]
    words = [f"{heights[0]:.1f}", *(f"{step:+.1f}" for step in np.diff(heights)), f"{heights[-1]:.1f}"]
    hues = (GREY, ENGAGEMENT, PLATFORM, PREFERENCE, INK)
    for x, (start, end, text, hue) in enumerate(zip(starts, ends, words, hues, strict=True)):
        ax.bar(x, end - start, bottom=start, color=hue, width=0.62)
        ax.hlines(end, x - 0.31, min(x + 0.69, 4.31), color=hue, lw=1.2)
        text = text.replace("-", "\N{MINUS SIGN}")
        ax.annotate(text, (x, max(start, end)), (0, 3), textcoords="offset points", ha="center")
    ax.set(ylim=(floor, high + 0.3 * (high - low)), title=title)


labels = ["before", "direct\n(NDE)", "through\nplatform", "through\npreference", "after"]
titles = "engagement with the item shown next", "alignment: the item shown next is searched for"
figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
for i, (ax, name) in enumerate(zip(axes, titles, strict=True)):
    heights = [100 * world[i].mean().item() for world in (before, direct, by_platform, after)]
    staircase(ax, heights, name)
    ax.set_xticks(range(5), labels)
axes[0].set_ylabel("probability, %\n(axis does not start at 0)")
figure.suptitle("Through the platform's factors both engagement and alignment fall")
plt.show()

# %% [markdown]
# What to see: on the left, the direct path adds more than the total effect, and the platform's factors take a part
# of it back: suppression. On the right, the direct step is exactly zero, as nothing runs from the policy to
# alignment but through factors, and the platform step goes down: with the left panel, substitution.
#
# ### User by user
#
# The worlds share their noise, so that every user has effects of their own, not only the average.

# %%
nde, nie = (100 * hand[name][0].numpy() for name in ("NDE", "NIE"))
suppressed = nde * nie < 0
figure, ax = plt.subplots(figsize=(5.6, 3.8), layout="constrained")
ax.axhline(0, color=GREY, lw=0.8)
ax.axvline(0, color=GREY, lw=0.8)
for who, hue, name in ((suppressed, "#AA4499", "opposite signs"), (~suppressed, GREY, "same sign")):
    ax.scatter(nde[who], nie[who], s=7, lw=0, alpha=0.6, color=hue, marker="o", label=name)
line = np.array([0, max(nde.max(), -nie.min())])
ax.plot(line, -line, color=INK, lw=0.9, ls="--", label="total effect 0")
ax.set(xlabel="direct effect, percentage points", ylabel="effect through the factors,\npercentage points")
ax.set(xlim=(min(nde.min(), 0) - 1, nde.max() + 1), ylim=(nie.min() - 1, nie.max() + 1))
ax.set_title("For most users the factors work against the direct effect")
ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), markerscale=2)
plt.show()
print(
    f"users with opposite signs: {suppressed.mean():.1%}; whose engagement falls: {(nde + nie < 0).mean():.1%}"
)

# %% [markdown]
# What to see: most users are in the lower right quadrant. Below the dashed line are those whom the policy
# makes engage *less*, although it raises the average.
#
# ### Why the noise must be held
#
# Without `pyro.condition`, each world draws users anew. The average contrast is the same in expectation, but each
# "user" before and after is two people, and the contrast has their difference in it.

# %%
torch.manual_seed(0)
strangers = outcome(pyro.do(program, data=policy))[0] - outcome(program)[0]
pair = {"same noise": hand["TE"][0], "noise drawn anew in each world": strangers}
rows = {k: {"mean": v.mean().item(), "sd over users": v.std().item()} for k, v in pair.items()}
for name, v in pair.items():
    rows[name]["standard error of the mean"] = v.std().item() / USERS**0.5
pd.DataFrame(rows).T.round(4)

# %% [markdown]
# For the cross-world terms it is worse than noise: $Y(a', P(a), Q(a))$ with the mediators of somebody else is
# another quantity, as it breaks the dependence between a user's mediators and the rest of that user.
#
# ### The order of the channels is a convention
#
# NIE is split by moving the platform's factors first. Preference first is as legitimate, and gives other parts with
# the same sum, where channels interact. Ask for it by the order of the channels.

# %%
channels = factors_by_channel(model)
other_order = Mediators({name: channels[name] for name in ("preference", "platform")})
other = natural_effects(same_users, (logs,), policy, other_order, hm.OUTCOMES).contrasts["engagement"]
rows = {
    "platform first": package["engagement"],
    "preference first": other,
}
parts = ("NIE", "NIE_platform", "NIE_preference")
pd.DataFrame({k: {p: v[p].mean().item() for p in parts} for k, v in rows.items()}).T.round(4)

# %% [markdown]
# ## Inference
#
# Now as in life: only logs. The first stage of a fit gives the model (the encoders are not needed for effects), and
# the Laplace approximation at its mode gives draws of structural coefficients and decoder weights. `Users` holds
# the users' covariates and what their logs say of their factors.


# %%
def fitted(sim):
    with tempfile.TemporaryDirectory() as folder:
        hm.write_simulation(sim, Path(folder) / "logs", 0, truth=False)
        dataset = hm.read_dataset(Path(folder) / "logs", periods=1)  # a past as a mediator: see notebook 07
    found = screen(dataset, hm.Settings(2, 2, restarts=RESTARTS, steps=STEPS, seed=0, device="cpu"))
    logs = tensors_of(dataset, found.standardisation)
    users = Users(logs, found.guide.expansion(USERS).evidence(logs))
    step = 1.0 / found.standardisation.sd["exposure_1"] * torch.eye(5)[0]  # one unit, standardised
    policy = {"exposure_covariates": logs.exposure_covariates + step}
    return found, (found.guide, parameter_posterior(found, dataset, 0, DRAWS), users, policy), dataset.users


found, question, covariates = fitted(sim)
print("bound of each restart, nats a user:", [round(start.bound, 2) for start in found.restarts])

# %% [markdown]
# `average_effects` makes the worlds above at the posterior mean of the parameters; by how much their averages differ
# under each draw from the posterior, the averages' gradients say (the delta method). **Interventional** effects draw
# the users' noise from the prior: they are about a population with these covariates. **Counterfactual** ones draw it
# from each user's own posterior (abduction): they are about these very users. Both are natural effects; those of
# mediators drawn at random, which the literature calls interventional too, are another thing.

# %%
kinds = ("interventional", "counterfactual")
effects = {k: average_effects(*question, counterfactual=k == "counterfactual", share=ALL) for k in kinds}
truths = {"interventional": true_effects(sim, {"exposure_1": 1.0}, 200)["outcomes"]}
truths["counterfactual"] = numpy_truth

# %% [markdown]
# ## Results
#
# ### Estimates beside the truth

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained", sharey=True)
looks = {"interventional": (-0.16, INK, "o"), "counterfactual": (0.16, GREY, "s")}
for ax, name in zip(axes, hm.OUTCOMES, strict=True):
    ax.axvline(0, color=GREY, lw=0.8)
    for kind, (shift, hue, marker) in looks.items():
        for y, estimand in enumerate(ESTIMANDS):
            e = {k: 100 * v for k, v in interval(effects[kind].contrasts[name][estimand], 0.9).items()}
            ax.hlines(y + shift, e["lower"], e["upper"], color=hue, lw=2)
            ax.plot(e["mean"], y + shift, marker, color=hue, ms=5, label=f"{kind}: mean and 90% interval")
            true = 100 * truths[kind][name][estimand]
            ax.plot(true, y + shift, "|", color=PREFERENCE, ms=15, mew=2.4, label="truth")
    ax.set(xlabel="change, percentage points", title=name, ylim=(4.6, -0.6))
    ax.locator_params(axis="x", nbins=6)
axes[0].set_yticks(range(5), ESTIMANDS.values())
handles = dict(zip(*axes[0].get_legend_handles_labels()[::-1], strict=True))
figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, frameon=False)
figure.suptitle("Direct and indirect effect are found with opposite signs")
plt.show()

# %%
rows = {}
for kind in kinds:
    for name, estimand in ((o, e) for o in hm.OUTCOMES for e in ESTIMANDS if (o, e) != ("alignment", "NDE")):
        e, true = interval(effects[kind].contrasts[name][estimand], 0.9), truths[kind][name][estimand]
        covers = "yes" if e["lower"] <= true <= e["upper"] else "no"
        rows[kind, name, estimand] = {k: round(v, 4) for k, v in ({"truth": true} | e).items()}
        rows[kind, name, estimand]["interval covers"] = covers
display(pd.DataFrame(rows).T)

# %% [markdown]
# What to see: the signs are those of the truth (orange strokes), and the sizes are near. The intervals are nominal
# 90% ones, in *one* simulated world, and the estimands depend on each other: where one misses, its neighbours tend
# to miss with it. The last column says which miss here. How often that happens over a hundred worlds of this design
# is in `simulations/README.md` (study *effects*).
#
# ### In words
#
# The probabilities of suppression and substitution are shares of posterior draws.

# %%
for kind, found_effects in effects.items():
    print(f"{kind}:", *sentences(found_effects.contrasts), sep="\n  ")
share = proportion_mediated(effects["interventional"].contrasts["engagement"])
print(
    "proportion mediated:",
    "none: NDE and NIE have, or may have, opposite signs" if share is None else share.mean(),
)

# %% [markdown]
# The package gives no "proportion mediated" (NIE / TE) where suppression is likely: a share of a total of which the
# parts have opposite signs is not a share.
#
# ### What a comparison of users would have said
#
# The slope of users' engagement rates on `exposure_1`, which is what a dashboard shows:

# %%
rate = sim.engagement.sum(1) / sim.exposure.sum(1)
slope = np.polyfit(sim.exposure_covariates[:, 0], rate, 1)[0]
te = truths["interventional"]["engagement"]["TE"]
print(f"slope {slope:+.3f}, true total effect {te:+.3f}")

# %% [markdown]
# Both are positive, so that the dashboard calls the policy a success. A slope over users is not the effect of one
# unit more for every user where the response bends, even with independent covariates as here; and what the policy
# takes away is not in it.
#
# ## What could go wrong
#
# ### An unmeasured cause of mediator and outcome
#
# Suppose something that is in no column moves both `platform_1` and engagement: say, a habit of the hour that the
# platform reads from elsewhere. Then the factors' coefficients on engagement ($\alpha$) take up what is not theirs.
# TE does not hinge on it; its split into NDE and NIE does. Nothing in the logs shows it. What one can do is to ask
# how strong it would have to be: `checks.rho_curve` gives NDE and NIE if engagement's error and the platform's
# noise had correlation $\rho$ (after Imai, Keele & Yamamoto 2010).

# %%
curve = rho_curve(*question, 0.9, share=FEWER)
figure = effects_sensitivity({"sensitivity": curve})
figure.set_dpi(110)
display(figure)

# %% [markdown]
# What to see: TE is level; NIE and NDE lean against each other. At $\rho = 0$, which is the truth in this world,
# they are the estimates from above. The dashed vertical line, if there is one, is the smallest of the correlations
# tried (steps of 0.1) at which NIE may be nothing, or has changed its sign. To judge whether that is much is
# subject-matter knowledge; the figure only says what must be judged.
#
# ### Does the curve tell the truth?
#
# Here that can be tried. The same users and exposures, but engagement drawn anew with a hidden cause, part of
# `platform_1`'s noise, of correlation $\rho = 0.2$. The truth is computed with the cause in place, which the user
# keeps in every world; the fit knows nothing of it.


# %%
RHO = 0.2
scale = w.mechanisms(sim.exposure_covariates, sim.preference_covariates)[1][:, 0]
per_noise = RHO * LOGISTIC_SD * scale / scale.mean()
log_odds = w.engagement_logits(sim.factors, sim.exposure_covariates) + (per_noise * sim.noise[:, 0])[:, None]
engaged = np.random.default_rng(0).binomial(sim.exposure.astype(int), sigmoid(log_odds)).astype(float)
_, hidden_question, _ = fitted(replace(sim, engagement=engaged))
hidden_curve = rho_curve(*hidden_question, 0.9, share=FEWER)

# %%
torch.manual_seed(0)
anew = torch.randn(20, USERS, 4)
cause = (torch.as_tensor(per_noise) * anew[..., 0]).unsqueeze(-1)


def engagement_with_cause(world):
    shown, engaged = world.distribution("exposure"), world.distribution("engagement")
    return (shown.probability * (engaged.logits + cause).sigmoid()).sum(-1)


hidden = natural_effects(
    hold(program, noise=anew), (logs,), policy, mediators, {"engagement": engagement_with_cause}
)
hidden_truth = {name: values.mean().item() for name, values in hidden.contrasts["engagement"].items()}

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained", sharey=True)
worlds = {0.0: (curve, truths["interventional"]["engagement"]), RHO: (hidden_curve, hidden_truth)}
for ax, (true_rho, (c, true)) in zip(axes, worlds.items(), strict=True):
    ax.axhline(0, color=GREY, lw=0.8)
    for name, hue, dash in (("NDE", ENGAGEMENT, "-"), ("NIE", "#AA4499", "--")):
        mean, low, high = 100 * np.array([[e[k] for k in ("mean", "lower", "upper")] for e in c[name]]).T
        ax.fill_between(RHOS, low, high, color=hue, alpha=0.2, lw=0)
        ax.plot(RHOS, mean, color=hue, ls=dash, lw=1.8, label=f"{name}, estimate and 90% interval")
        ax.plot(true_rho, 100 * true[name], "D", mfc="white", mec=hue, ms=8, mew=1.6, label=f"{name}, truth")
    ax.set(xlabel="assumed correlation rho", title=f"true rho = {true_rho:g}", xticks=RHOS)
axes[0].set_ylabel("change of P(engaged),\npercentage points")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
figure.suptitle("The curve passes the truth where its rho is the true one")
plt.show()

# %% [markdown]
# What to see: on the right, the answer at $\rho = 0$ (the one that a run reports) is off the diamonds, and nothing
# in the fit gives it away; at the true $\rho$ the curve passes near them.
#
# ### Other checks
#
# E-values (VanderWeele & Ding 2017) need no model of the cause. That of TE is about a cause of policy covariate and
# engagement, which the curve leaves out; those of NDE and NIE are about one of factors and engagement (Smith &
# VanderWeele 2019). Overlap says whether the data reach the policy.

# %%
shifted = covariates[design.exposure_names].assign(exposure_1=covariates["exposure_1"] + 1.0)
print(overlap(covariates[design.exposure_names + design.preference_names], shifted).verdict)
pd.DataFrame(e_values(effects["interventional"].levels["engagement"], 0.9)).T.round(2)

# %% [markdown]
# ### And besides
#
# - **A factor that is poorly known.** Error in a mediator draws NIE towards 0 and NDE towards TE: under suppression
#   both look too small. Here the factors are
#   integrated over, not plugged in, so that the error is in the model; with few events a user, or a wrong emission,
#   some remains.
# - **A wrong graph.** A reversed edge between the channels moves effects between $\text{NIE}_{\text{platform}}$ and
#   $\text{NIE}_{\text{preference}}$. The bounds of the restarts and `checks.negative_controls` are what to look at.
# - **A rotated channel.** NIE by channel does not depend on how factors are ordered, signed or mixed *inside* a
#   channel; effects through one factor alone do.
# - **Bad overlap.** For a policy that nobody has had, every world above extrapolates the mechanisms.
#   `run.effects` refuses where most users are moved there.

# %% [markdown]
# ## Exercises
#
# 1. **The other order.** Show that NIE by platform and by preference change places when preference moves first, and
#    that their sum does not. When do the two orders agree?
# 2. **A stronger hidden cause.** Set `RHO` to 0.5. Does the curve still pass the truth at its own rho? Which of its
#    assumptions gives way first?
# 3. **No suppression.** Choose `direct` and `substitution` such that NDE and NIE have one sign, and read the sentences
#    again: what is said now that was not before?
