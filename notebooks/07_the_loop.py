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
# # The loop
#
# A platform learns from what its users do, within the very window that the logs are of. What it learns changes what it
# shows next, what is shown turns into searches, and into habit or boredom. This notebook turns the knob of such a
# platform, in a world with known truth. First by hand, with `pyro.do`, where the past becomes a consequence; then by
# the package, from logs alone. It ends with what a model without a past says of the same logs, and how one finds out.
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
from IPython.display import Image

import pyro_hmvcrl as hm
from pyro_hmvcrl.queries import Mediators, Users, averages, hold, natural_effects
from pyro_hmvcrl.queries.averages import factors_by_channel, sites_of_past
from pyro_hmvcrl.queries.interventions import by_chance
from pyro_hmvcrl.report.answer_figures import effects_course
from pyro_hmvcrl.report.style import to_bytes
from pyro_hmvcrl.report.verdicts import regression_sentences
from pyro_hmvcrl.story import HMVCRL, Logs, at
from pyro_hmvcrl.story.history import FEATURES, LOOKS_AT
from pyro_hmvcrl.synthetic import true_effects
from pyro_hmvcrl.synthetic.world import LEARNING, draw_world

QUICK = bool(os.environ.get("HMVCRL_QUICK"))  # a reduced run, to test that the code works
SEED = 0
USERS = 150 if QUICK else 1_000
if QUICK:
    averages.USER_DRAWS = 500
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#818b96"
HUES = {"engagement": GREEN, "alignment": ORANGE}
plt.rcParams.update({"figure.dpi": 110, "axes.spines.top": False, "axes.spines.right": False, "font.size": 9})

# %% [markdown]
# ## Question and assumptions
#
# **Question.** The platform turns up personalisation: it follows more closely what each user engaged with. What does
# that do to engagement and to alignment, in the short run and in the long run? And how much of it comes of the
# **loop**, that is, of a past that becomes another one under the policy?
#
# The window is cut into periods $t = 1, \dots, T$. With $H_t$ what a user searched, was shown and engaged with before
# $t$, by category, the story has three arrows of time:
#
# $$
# \begin{aligned}
# \text{exposure in } t &\sim \text{Categorical}(\text{softmax}(f_E(P) + \text{learning}(c^P) \cdot H_t)) \\
# \text{search in } t &\sim \text{Categorical}(\text{softmax}(f_S(Q) + \text{influence} \cdot H_t)) \\
# \text{engagement in } t &\sim \text{Bernoulli}(\sigma(b + a \cdot Q + \alpha \cdot P + \delta(c^P)
# + \text{readiness} + \text{familiarity} \cdot H_t))
# \end{aligned}
# $$
#
# **Assumptions**, beyond those of notebooks 02 and 05:
#
# 1. *The past acts through these features* of $H_t$ (below), and is the same within a period.
# 2. *Nothing unmeasured moves both the past and what follows it*, but the factors. A taste that drifts would.
# 3. *The knob is a covariate*: it differs between users, and is the same over the window.
#
# Given the past, the likelihood of the logs is a product over periods, each of them as without a past but for a known
# offset. So what was identified stays so.
#
# ## Causal program
#
# A world in which `exposure_1` is the knob and nothing else: it moves no factor and not the odds of engagement, only
# how much the platform learns. What is shown more often is engaged with less (`familiarity` below zero: satiation),
# and searched for more (`influence`).

# %%
design = hm.Design(
    users=USERS,
    preference_factors=2,
    categories=12,
    search_events=(20, 40),
    recommendation_events=(60, 100),
    learning=0.2,
    personalisation=0.4,
    influence=1.0,
    familiarity=-1.0,
    engagement_strength=0.9,
)
first = np.eye(design.exposure_covariates)[0]
others = 1 - first[:, None]
world_drawn = draw_world(design, SEED)
true_world = replace(
    world_drawn,
    location_weights=(others * world_drawn.location_weights[0], world_drawn.location_weights[1]),
    log_scale_weights=(others * world_drawn.log_scale_weights[0], world_drawn.log_scale_weights[1]),
    engagement_direct=(1 - first) * world_drawn.engagement_direct,
    loop=replace(world_drawn.loop, personalisation=design.personalisation * first[:, None] * LEARNING),
)
sim = hm.simulate(design, SEED, true_world)
for term, of in LOOKS_AT.items():
    weights = np.atleast_1d(getattr(true_world.loop, term))
    print(f"{term} of", ", ".join(f"{name} {w:+.2f}" for name, w in zip(of, weights, strict=True)))
print("of exposure_1, personalisation", true_world.loop.personalisation[0].round(2))

# %% [markdown]
# `rate` is a user's engagement rate with a category, above the usual; the others are logarithms of counts so far. The
# model at the **true parameters**, so that nothing is estimated yet. Its logs have a count for each user, period and
# category:

# %%
truth = {n: torch.as_tensor(array, dtype=torch.float32) for n, array in true_world.parameters().items()}
logs = Logs.of(*sim.observed)
model = HMVCRL(2, 2, 5, 5, 12, past=True).requires_grad_(False)  # nothing is fitted with this one
model.graph.orient(truth["edges"])
program = at(model, truth)
T = logs.n_periods
print("exposures:", tuple(logs.exposure.shape), "= users, periods, categories")
sites = pyro.poutine.trace(program).get_trace(logs).nodes
print(*[name for name in sites if name.endswith(("_1", f"_{T}")) and "covariates" not in name], sep="  ")

# %% [markdown]
# The program is *unrolled*: each period has its own sites, and `history_t` is a site, too, worked out from the events
# that were **drawn** in the periods before it. Of the logs the program reads covariates and numbers of events.
#
# ## Causal query
#
# ### By hand: another policy, another past
#
# Two worlds are to differ by the policy alone. The users' noise is held by `pyro.condition`, as ever. The events have
# chance of their own; each comes of a uniform number, so that the same seed gives every event the same chance in both
# worlds (common random numbers).


# %%
def world(program, **forced):
    """What the program draws and computes when these sites are forced."""
    torch.manual_seed(SEED)  # the same chance in every world
    return pyro.poutine.trace(pyro.do(program, data=forced)).get_trace(logs).nodes


def by_period(world):
    """Engagement and alignment of each user in each period, ``(users, T)``."""
    y = {"engagement": [], "alignment": []}
    for t in range(1, T + 1):
        shown, engaged, searched = (
            world[f"{site}_{t}"]["fn"].probability for site in ("exposure", "engagement", "search")
        )
        y["engagement"].append((shown * engaged).sum(-1))
        y["alignment"].append((shown * searched).sum(-1))
    return {outcome: torch.stack(periods, -1) for outcome, periods in y.items()}


noise = torch.nn.functional.pad(torch.as_tensor(sim.noise, dtype=torch.float32), (0, 1))  # of readiness: none
same_users = pyro.condition(program, data={"noise": noise})
policy = {"exposure_covariates": logs.exposure_covariates + torch.eye(5)[0]}
before, after = world(same_users), world(same_users, **policy)

# %% [markdown]
# Nothing was forced but the covariates. Yet the past becomes another one, as it is made of what was drawn. (Not in the
# first period, which has no past to learn from: in both worlds the same events, so that `history_2` is alike.)

# %%
rows = {}
for t in (2, 3, T):
    now, then = (w[f"history_{t}"]["value"] for w in (before, after))
    rows[f"history_{t}"] = {f: (then - now)[..., i].abs().mean().item() for i, f in enumerate(FEATURES)}
print("mean absolute difference of the past's features")
pd.DataFrame(rows).T.round(3)

# %% [markdown]
# **Hold the past** and it is no consequence any more: `pyro.do` on the `history` sites, at what they were. What is left
# of the policy's effect is direct (NDE): the platform looks more closely at the *same* past. The rest is what comes of
# the past that becomes another one: NIE_loop.

# %% tags=["thumbnail"]
past = {f"history_{t}": before[f"history_{t}"]["value"] for t in range(2, T + 1)}
held = world(same_users, **policy, **past)
y_before, y_held, y_after = (by_period(w) for w in (before, held, after))

figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
for ax, (outcome, hue) in zip(axes, HUES.items(), strict=True):
    total, direct = (100 * (y[outcome] - y_before[outcome]).mean(0) for y in (y_after, y_held))
    ax.axhline(0, color=GREY, lw=0.8)
    ax.plot(range(1, T + 1), total, "o-", color=hue, ms=4, label="total (TE)")
    ax.plot(range(1, T + 1), direct, "o--", color=GREY, ms=4, mfc="white", label="the past held (NDE)")
    ax.set(title=outcome, xlabel="period of the window", ylabel="change (percentage points)")
    ax.legend(frameon=False, loc="lower right")
figure.suptitle("The short run says little of the long run", weight="bold")
plt.show()

# %% [markdown]
# *What to see:* in the first period there is no past, so that personalisation has nothing to go by: no effect at all.
# It grows with what the platform has seen. The gap between the lines is the loop. On the left it *costs* engagement:
# users are shown more of the same, and tire of it. On the right it *adds* alignment: users come to search for what
# they were shown. Alignment that the platform has made itself is worth a second thought.
#
# ### The package gives the same number
#
# `by_chance` holds the seed of the events as `world` does; `Mediators.loop` names the past. An effect over the window
# is the periods' average, weighted by what was shown in each.

# %%
story = hold(by_chance(program, SEED), noise=noise)
mediators = Mediators(factors_by_channel(model), loop=sites_of_past(logs))
weights = Users(logs).weights
package = natural_effects(story, (logs,), policy, mediators, hm.OUTCOMES, weights).contrasts
numpy_truth = true_effects(sim, {"exposure_1": 1.0}, counterfactual=True)["outcomes"]
rows = {}
for outcome in hm.OUTCOMES:
    pairs = {"TE": (y_before, y_after), "NDE": (y_before, y_held), "NIE_loop": (y_held, y_after)}
    for estimand, (start, end) in pairs.items():
        by_hand = ((end[outcome] - start[outcome]) @ weights).mean()
        rows[outcome, estimand] = {"by hand": by_hand, "package": package[outcome][estimand].mean()}
        rows[outcome, estimand]["numpy"] = numpy_truth[outcome][estimand]
print("percentage points")
(100 * pd.DataFrame(rows).T.astype(float)).round(3)

# %% [markdown]
# The numpy simulator draws its own events, and averages over twenty draws of them: the difference is chance. Here no
# factor hangs on the knob, so that $\text{TE} = \text{NDE} + \text{NIE}_{\text{loop}}$; in general
#
# $$ \text{TE} = \text{NDE} + \text{NIE}_{\text{platform}} + \text{NIE}_{\text{preference}} +
# \text{NIE}_{\text{loop}}, $$
#
# the last with all factors as the policy makes them, and the past once as it was and once as it becomes.
#
# ## Inference
#
# Now as in life: only logs. A fit cuts the window into periods by itself, days if there are 4 to 14 of them. For
# comparison the same logs are fitted as **one** period, in which there is no past.

# %%
steps = {"steps": 30, "encoder_steps": 20} if QUICK else {"steps": 500, "encoder_steps": 300}
scratch = tempfile.TemporaryDirectory()
folder = Path(scratch.name)
hm.write_simulation(sim, folder / "logs", SEED, truth=False)
runs, answers = {}, {}
for name, periods in {"with a past": None, "one period": 1}.items():
    runs[name] = run = hm.fit(
        folder / "logs",
        platform_factors=2,
        preference_factors=2,
        out=folder / name,
        progress=False,
        restarts=1,
        periods=periods,
        seed=SEED,
        device="cpu",
        **steps,
    )
    print(f"{name}: {run.config['periods']['number']} period(s)")
    answers[name] = run.effects("exposure_1=+1.0", seed=SEED, progress=False).to_dict()

# %% [markdown]
# The weights of the past have a posterior like all coefficients. Of the knob, and of the terms that it does not move:

# %%
posterior = runs["with a past"].posterior
true_loop = {
    "influence": true_world.loop.influence,
    "familiarity": np.array([true_world.loop.familiarity]),
    "personalisation": true_world.loop.personalisation[0],
}
rows = {}
for term, weights_true in true_loop.items():
    drawn = posterior.draws[term].numpy()
    drawn = drawn[:, 0] if term == "personalisation" else drawn  # of exposure_1
    for i, of in enumerate(LOOKS_AT.get(term, FEATURES)):
        lower, upper = np.quantile(drawn[:, i], [0.05, 0.95])
        rows[f"{term} of {of}"] = {
            "truth": weights_true[i],
            "mean": drawn[:, i].mean(),
            "lower": lower,
            "upper": upper,
        }
pd.DataFrame(rows).T.round(2)

# %% [markdown]
# ## Results
#
# ### What comes of the knob
#
# `run.effects` rolls the fitted platform out under both policies, for users with these covariates (**interventional**),
# or with `counterfactual=True` for these very users: then their factors' noise is what their own logs speak of, while
# the events are drawn anew in both cases.

# %%
answer = answers["with a past"]
true = true_effects(sim, {"exposure_1": 1.0}, 20 if QUICK else 60)["outcomes"]
rows = {
    (outcome, estimand): {"truth": true[outcome][estimand]} | answer["outcomes"][outcome][estimand]
    for outcome in hm.OUTCOMES
    for estimand in ("TE", "NDE", "NIE", "NIE_platform", "NIE_preference", "NIE_loop")
}
print("percentage points, 90% intervals")
(100 * pd.DataFrame(rows).T).round(2)

# %%
Image(to_bytes(effects_course(answer), "png"), width=760)

# %% [markdown]
# *What to see:* the course that the roll-out by hand has shown, now from the logs alone, with intervals. A test of a
# few days would have measured its beginning.
#
# ### What one period would have said

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 2.5), sharey=True, layout="constrained")
for ax, (outcome, hue) in zip(axes, HUES.items(), strict=True):
    ax.axvline(0, color=GREY, lw=0.8, zorder=0)
    found = {name: of["outcomes"][outcome]["TE"] for name, of in answers.items()}
    found["regression, no model"] = answer["regression"][outcome]
    for y, (name, e) in enumerate(found.items()):
        ax.hlines(y, 100 * e["lower"], 100 * e["upper"], color=GREY if "regression" in name else hue, lw=5)
        ax.plot(100 * e["mean"], y, "o", color="white", ms=3)
    ax.axvline(100 * true[outcome]["TE"], color="black", lw=1, ls="--", label="truth")
    ax.set(title=outcome, xlabel="TE (percentage points)", ylim=(2.5, -0.5))
axes[0].set_yticks(range(3), list(found))
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", frameon=False)
figure.suptitle("Without a past the effect is missed, and the logs' own regression says so", weight="bold")
plt.show()
for name, of in answers.items():
    agrees = {outcome: found["agrees"] for outcome, found in of["regression"].items()}
    print(f"{name}: agrees with the regression: {agrees}")
    print(*regression_sentences(of), sep="\n")

# %% [markdown]
# *What to see:* the model with one period has no way from the knob to what is shown but through the platform's
# factors, and the knob moves none. Its narrow interval is that of a wrong story. Beside **every** answer to a policy
# stands a regression of the users' own rates on all covariates, in which there is no story: it knows nothing of
# factors, cannot split an effect, and needs covariates that were not set by what users want. But it sees the whole of
# this one. Where the two disagree, a check fails, and the report says so.
#
# ## What could go wrong
#
# - *Periods that are too coarse.* The past is the same within a period. A platform that learns by the hour and is
#   looked at by the week has no past in the week in which it learned. Try `--periods`, and see whether answers move.
# - *Another past than these features.* Real platforms look at the past in their own way. The features stand in for
#   it, as far as they go together with it; predictive checks of how exposure follows engagement from one period to the
#   next, and the regression, say where they do not.
# - *A taste that drifts* makes engagement and exposure change together over the window, and looks like a loop.
# - *The long run ends with the window.* The course is about as many periods as the logs have. What a policy does in
#   half a year is in no log of ten days.
# - *Forced events.* `pyro.do` on `exposure_3` makes the feed of one period, and the periods after it follow. Forcing a
#   `history` site cuts it off from all events: that is what the direct effect asks for, and not a policy.
# - *One seed.* `simulations/README.md` has worlds with a loop among those of its study of robustness.

# %%
scratch.cleanup()

# %% [markdown]
# ## Exercises
#
# 1. **A blind platform.** Set `personalisation` to 0 in the design. What is left of NIE_loop, and does the fit of one
#    period still go wrong?
# 2. **Coarser periods.** Fit with `periods=5` and `periods=2`. How does the total effect move, and does the regression
#    warn?
# 3. **The short run.** Read the effect of the first period off the course, and say how long a test would have to run
#    to see half of the whole.
