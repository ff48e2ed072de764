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
# # Real logs, and how to know that an answer is right
#
# In all notebooks so far the truth was known, as the world was made up. Of real logs nobody knows it, with two
# exceptions: a change that has **come about** since the fit, so that what was predicted can be held against what came
# (a *back-test*), and logs in which **chance itself** chose what was shown. This notebook makes the first by hand and
# by the package, and reads what the second says of us, where we lose included.
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
from pyro_hmvcrl.story import HMVCRL, Logs, at
from pyro_hmvcrl.synthetic import SUBSTITUTION
from pyro_hmvcrl.synthetic.world import draw_world

QUICK = bool(os.environ.get("HMVCRL_QUICK"))  # a reduced run, to test that the code works
SEED = 3
USERS = 200 if QUICK else 1_000
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#818b96"
plt.rcParams.update({"figure.dpi": 110, "axes.spines.top": False, "axes.spines.right": False, "font.size": 9})
scratch = tempfile.TemporaryDirectory()
place = Path(scratch.name)

# %% [markdown]
# ## Question and assumptions
#
# **Question.** The platform has turned one of its knobs up. We had fitted the logs of before. Does the run foretell
# what is shown, searched and engaged with after the change? And does it *know* when it cannot?
#
# **Assumptions** are those of every answer (notebook 05). A back-test puts some of them to the test that no other
# check can reach: that the change acts through the covariates that the logs have, and that the story holds as far
# away as the platform has gone. It cannot tell a cause that both policy and engagement share, if it stays the same.
#
# ## Causal program
#
# A platform whose change is known, as it is made up. Two sets of logs: *before*, and *after*, of **other users**,
# when `exposure_1` stands one standard deviation higher. In a third one the same change came about and **the
# covariates do not tell of it**: what a platform does without writing it down.

# %%
design = hm.Design.with_knobs(**SUBSTITUTION | {"users": USERS, "preference_factors": 2, "categories": 12})
world = draw_world(design, SEED)
OTHERS = SEED + 10_000  # the seed of other users of the same world
before = hm.simulate(design, SEED, world)
after = hm.simulate(design, OTHERS, world, {"exposure_1": 1.0})
unchanged = hm.simulate(design, OTHERS, world)
hidden = replace(after, exposure_covariates=unchanged.exposure_covariates)
for name, logs in {"before": before, "after": after, "hidden": hidden}.items():
    hm.write_simulation(logs, place / name, SEED, truth=False)

# %% [markdown]
# ## Causal query
#
# New covariates are a policy that has come about: what the program then expects to be shown is the prediction. That
# is all. By hand it is a few lines, here at the **true** parameters, so that nothing is estimated yet.


# %%
def shares_shown(program, logs, draws=20):
    """What the program expects these users to be shown, as shares of the categories; a mean over their noise."""
    torch.manual_seed(SEED)
    number, found = logs.exposure.sum(-1, keepdim=True), []
    for _ in range(draws):
        sites = pyro.poutine.trace(program).get_trace(logs).nodes
        found.append((sites["exposure"]["fn"].probability * number).sum(0) / number.sum())
    return torch.stack(found).double().mean(0).numpy()


truth = {n: torch.as_tensor(array, dtype=torch.float32) for n, array in world.parameters().items()}
model = HMVCRL(2, 2, 5, 5, 12).requires_grad_(False)
model.graph.orient(truth["edges"])
new = Logs.of(*after.observed)
then, now = (shown.sum(0) / shown.sum() for shown in (Logs.of(*before.observed).exposure, new.exposure))
missed = {
    "the true program": shares_shown(at(model, truth), new) - now.numpy(),
    "no change": (then - now).numpy(),
}
for name, errors in missed.items():
    print(f"mean error of {name}: {100 * np.abs(errors).mean():.2f} percentage points")

# %% [markdown]
# ## Inference
#
# Only the logs of before are fitted. Their time is forgotten here (`periods=1`), as this platform does not learn.

# %%
steps = {"steps": 30, "encoder_steps": 20} if QUICK else {"steps": 500, "encoder_steps": 300}
run = hm.fit(
    place / "before",
    platform_factors=2,
    preference_factors=2,
    out=place / "run",
    progress=False,
    restarts=1,
    periods=1,
    seed=SEED,
    device="cpu",
    **steps,
)
display(run)

# %% [markdown]
# ### By hand, and by the package
#
# The same by hand with what was fitted. `validate` does it with draws of the parameters' posterior, new events, and
# so with intervals for what is to be **seen** and not only for what is to be expected. Beside it stands *as before*:
# that nothing has changed.

# %%
fitted = at(run.model, run.guide.coefficients.means())
by_hand = shares_shown(fitted, run.logs(hm.read_dataset(place / "after", periods=1)))
found = run.validate(place / "after", progress=False)
package = found.to_frame().loc["shown"]
by_name = dict(zip(run.categories, by_hand, strict=True))
table = package[["before", "predicted", "lower", "upper", "observed"]].assign(by_hand=pd.Series(by_name))
print("shares of what is shown, in percent")
(100 * table).round(1)

# %% [markdown]
# ## Results
#
# ### A change that the covariates tell

# %% tags=["thumbnail"]
found.plot()

# %%
print(*found.sentences, sep="\n")

# %% [markdown]
# *What to see:* the ring is before, the coloured interval what was predicted, the cross what came. Nearly all crosses
# lie in their intervals, and far from where they were before. Over many worlds the study `simulations/backtest.py`
# counts how many.
#
# ### The same change, untold

# %%
untold = run.validate(place / "hidden", progress=False)
print(*untold.sentences, sep="\n")

# %% [markdown]
# *What to see:* the run predicts what it was told, which is no change, and is found out. Who sees this in logs of
# their own should look for what else the platform did in that week.
#
# ### Real logs in which chance chose
#
# **Open Bandit** (Saito, Aihara, Matsutani and Narita 2021) has what a fashion shop showed in one week: to some users
# at random, to others as a bandit (Thompson sampling) chose. `python simulations/real.py --open-bandit WHEEL` fits
# strata of users under the random arm, with other strata of both, and predicts what the **bandit** shows in strata
# whose bandit rows the fit has not seen. The rows are not kept here; what the study found is.


# %%
def from_here(*parts):
    """A path in the project, whether the notebook runs in its folder or in that of the project."""
    root = next(folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / "simulations").is_dir())
    return root.joinpath(*parts)


real = pd.read_csv(from_here("simulations", "real", "results.csv"))
shares = real[real["question"] == "shown"]
colours = dict(zip(("men", "women", "all"), (BLUE, ORANGE, GREEN), strict=True))
figure, ax = plt.subplots(figsize=(5.2, 4), layout="constrained")
most = 100 * shares[["known", "ours"]].max(axis=None)
ax.plot([0, most], [0, most], color=GREY, lw=0.8)
for campaign, of in shares.groupby("campaign", sort=False):
    ax.errorbar(
        100 * of["known"],
        100 * of["ours"],
        100 * np.abs(of[["lower", "upper"]].sub(of["ours"], axis=0)).T,
        fmt="o",
        ms=3,
        lw=0.8,
        color=colours[campaign],
        label=campaign,
    )
ax.set(xlabel="share that the bandit shows (%)", ylabel="predicted, 90% interval (%)")
ax.legend(frameon=False, title="campaign")
plt.show()

# %% [markdown]
# In numbers: mean absolute errors in percentage points, ours, of the plain shares that the bandit shows in the
# *other* strata, and of no change; and how many of our intervals hold what came.

# %%
rows = {}
for campaign, of in shares.groupby("campaign", sort=False):
    missed = {name: 100 * (of[name] - of["known"]).abs().mean() for name in ("ours", "plain", "nothing")}
    rows[campaign] = missed | {"held": of["holds"].sum(), "of": len(of)}
pd.DataFrame(rows).T.round(2)

# %% [markdown]
# *What to see:* the change is foretold, with a tenth to a sixth of the error of "no change". **And the plain shares
# do better still**: this bandit looks at no user, so that there is nothing to learn of the strata, and a model of
# users can only add noise. A model earns its place where what is shown depends on who it is shown to.
#
# ### What chance itself rules out
#
# A random half of the random arm's rows stands where searches stand. Nothing can move it, so each of these is
# **none** by design:

# %%
none = real[
    real["known"].abs().lt(1e-9) & real["question"].isin(["searched, moved", "factor, moved", "edge"])
]
said = none.assign(wrong=~none["holds"].astype(bool)).groupby(["question", "campaign"], sort=False)["wrong"]
display(said.agg(answers="size", wrongly_said="sum"))
graded = real["grade"].dropna()
print(f"the report's own verdict on these answers: {graded.value_counts().to_dict()}")

# %% [markdown]
# *What to see:* no share of what is "searched" is said to move. But where searches say nothing, the preference factor
# is free to follow the platform, and in some fits it is said to move, and an edge to be there. The report grades
# every one of these answers *no*, "do not rely on it": the right ones, too. So it protects, and says little.
#
# Rates of engagement are another loss: clicks are 14 to 41 in a split, and rates below 1% are foretold as 2 to 4%:

# %%
rates = real[real["question"] == "engagement"].groupby("campaign", sort=False)
(100 * rates[["known", "known_se", "ours", "lower", "upper"]].mean()).round(2)

# %% [markdown]
# ## What could go wrong
#
# - *A back-test is of one change.* That a run foretells more novelty says nothing of less autoplay.
# - *Other users, other weeks.* A holiday between before and after is a change of its own, and the covariates do not
#   tell.
# - *Few events.* Rates of a few per thousand need thousands of engaged events: the intervals say so, but the middle
#   of a wide interval is not a prediction.
# - *Surfaces that do not meet.* Logs without search have no preference of their own. A placebo in its place, as
#   above, is a test and no more.
# - *Choosing what to show.* Figures that agree are found easily among many. Here all splits are shown, and of the
#   study's text every number stands in its tables (`python simulations/all.py --check`).

# %%
scratch.cleanup()

# %% [markdown]
# ## Exercises
#
# 1. **The very same users.** Simulate *after* with the seed of *before* and validate with `counterfactual=True`. By
#    how much do intervals shrink, and why not to nothing?
# 2. **Half of it untold.** Let the covariates tell half of the change. Is the run still found out?
# 3. **Your own.** Cut your logs at the last change of your recommender, fit the part before, and validate on the
#    rest. Which figure is missed by most, and what did the platform do there?
