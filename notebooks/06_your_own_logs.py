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
# # Your own logs
#
# From three CSV files as a company has them (its own names, dates, texts, gaps, guests) to an answer and a report: what
# is done to the files and said of it, what is refused, the fit, the effects of a change, and how to read the report's
# figures. The last part of the results imports KuaiSAR, or, as here, a small generated copy of its files.

# %% [markdown]
# ## Setup

# %%
import json
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Image, display

warnings.filterwarnings("ignore", message="IProgress not found")  # no progress bar is shown here

import pyro_hmvcrl as hm
from pyro_hmvcrl.kuaisar.copy import write_kuaisar_copy
from pyro_hmvcrl.kuaisar.copy.population import EXPOSURE_COVARIATES
from pyro_hmvcrl.kuaisar.download import SMALL
from pyro_hmvcrl.queries import averages
from pyro_hmvcrl.report.verdicts import judge, overall
from pyro_hmvcrl.synthetic import SUBSTITUTION, true_effects

QUICK = bool(os.environ.get("HMVCRL_QUICK"))
if QUICK:
    averages.USER_DRAWS = 500
PLATFORM, GREY = "#0072B2", "#818b96"
plt.rcParams |= {"figure.dpi": 110, "axes.spines.top": False, "axes.spines.right": False, "font.size": 9}
place = tempfile.TemporaryDirectory()
os.chdir(place.name)  # all folders below are made here


def command(line):
    """Run a command as in a terminal; its progress bars are not shown."""
    print(f"$ {line}")
    done = subprocess.run([sys.executable, "-m", *line.split()], capture_output=True, text=True)
    print(done.stdout or done.stderr.splitlines()[-1])


# %% [markdown]
# ## Question and assumptions
#
# **Question.** You have the logs of a platform with two surfaces: *search*, which users start, and a *feed*, which the
# platform fills. What would a change of the feed's policy do to engagement, and to how much of what is shown is what
# users look for (alignment)?
#
# Before any file is written, three decisions have to be made. No program can make them.
#
# 1. **Categories.** An event is one item shown, or one result chosen, of one of $C$ categories, the same list on both
#    surfaces. A dozen to sixty of them work; fewer carry too little, more are costly. Engagement is 0 or 1.
# 2. **Which covariate goes into which block.** *Exposure covariates* describe what the platform did to a user: how much
#    it delivers, what is promoted, when. *Preference covariates* describe the user apart from it. A column that
#    the user's wishes drive is no exposure covariate, even if the platform computes it.
# 3. **Nothing that follows engagement** (watch time, likes, a score that was trained on them) belongs in either block:
#    it would be a descendant of the outcome.
#
# Assumptions of the model: within the window, preference does not drift; searches are the user's own. Those of a causal
# reading: no unmeasured common cause of the exposure covariates and engagement (for NDE and NIE, nor of the factors and
# engagement); overlap, that is, users who already live under something like the new policy; and factors that are
# identified, for which covariates must move the factors' location and scale (see `03_fit_and_believe`).

# %% [markdown]
# ### The files
#
# We make the files of a video platform, with its own names and units, and the faults that such files have. They are
# simulated, so that the answer can be held against the truth at the end; nothing before that uses it.

# %%
DESIGN = SUBSTITUTION | {"users": 200 if QUICK else 1_200, "preference_factors": 2, "categories": 12}
GENRES = ["food", "music", "dance", "games", "sports", "film", "funny", "beauty", "cars", "travel", "pets"]
GENRES += ["news"]
# Covariate of the simulation: name, mean and sd of the column that you would have
EXPOSURE = {"exposure_1": ("autoplay", 0.5, 0.1), "exposure_2": ("refills_a_day", 6, 1.2)}
EXPOSURE |= {"exposure_3": ("items_a_refill", 10, 1.5), "exposure_4": ("mean_seconds", 35, 6)}
EXPOSURE |= {"exposure_5": ("mean_age_days", 20, 4)}
PREFERENCE = {"taste_1": ("queries_a_day", 2, 0.4), "taste_2": ("words_a_query", 3, 0.5)}
PREFERENCE |= {"taste_3": ("account_years", 4, 0.8), "taste_4": ("follows", 40, 9), "taste_5": ("age", 34, 7)}

sim = hm.simulate(hm.Design.with_knobs(**DESIGN), seed=0)
hm.write_simulation(sim, "simulated", seed=0, truth=False)
users, searches, deliveries = (
    pd.read_parquet(f"simulated/{table}.parquet")
    for table in ("users", "search_events", "recommendation_events")
)
rng = np.random.default_rng(0)
for column, (name, mean, sd) in (EXPOSURE | PREFERENCE).items():
    users[name] = (mean + sd * users.pop(column)).round(4)
users["plan"] = rng.choice(["free", "Free ", "premium"], len(users), p=[0.6, 0.1, 0.3])  # moves nothing here
users.loc[rng.random(len(users)) < 0.03, "account_years"] = np.nan
for events in (searches, deliveries):
    events["time"] = pd.to_datetime(events.pop("timestamp"), unit="ms", utc=True).dt.strftime(
        "%d %b %Y %H:%M:%S"
    )
    events["genre"] = [GENRES[int(category[1:])] for category in events.pop("category")]
    some = pd.Series(rng.random(len(events)))
    events["genre"] = (
        events["genre"].mask(some < 0.02, events["genre"].str.upper()).mask(some > 0.999, "test")
    )
deliveries["watched"] = np.where(deliveries.pop("engaged") == 1, "true", "false")
deliveries.loc[:2, "watched"] = None
searches.loc[:4, "user_id"] = "guest"

# %% [markdown]
# From here on as you would do it. There are three files:

# %%
for name, table in {"users": users, "searches": searches, "deliveries": deliveries}.items():
    table.rename(columns={"user_id": "uid"}).to_csv(f"{name}.csv", index=False)
    print(f"{name}.csv", *Path(f"{name}.csv").read_text().splitlines()[:3], sep="\n  ")

# %% [markdown]
# `hm.from_frames` makes a dataset of them. Its remarks say all that was done: which column was taken for what, how
# dates and yes and no were read, what became of texts and gaps, which rows are left out and why. Read them: a wrong
# guess is cheapest here.

# %%
users, searches, deliveries = (pd.read_csv(f"{name}.csv") for name in ("users", "searches", "deliveries"))
exposure = ["autoplay", "refills_a_day", "items_a_refill", "mean_seconds", "mean_age_days"]
preference = ["queries_a_day", "words_a_query", "account_years", "follows", "age", "plan"]
logs = hm.from_frames(
    users, searches, deliveries, exposure=exposure, preference=preference, top_categories=len(GENRES)
)
print(*logs.remarks, sep="\n")

# %% [markdown]
# The command does the same from file to folder (`top_categories` is `--top-categories` there), and keeps the account in
# `import.json`:

# %%
blocks = f"--exposure {','.join(exposure)} --preference {','.join(preference)}"
command(
    f"pyro_hmvcrl import users.csv searches.csv deliveries.csv logs {blocks} --top-categories {len(GENRES)}"
)
print(*sorted(path.name for path in Path("logs").iterdir()), sep="  ")

# %% [markdown]
# What it writes is a **dataset folder**, which all commands read. Who prefers to make it by hand can (Parquet or CSV):
#
# | file | one row for | columns |
# |---|---|---|
# | `dataset.json` | | `name`, `exposure_covariates`, `preference_covariates`, perhaps more |
# | `users` | a user | `user_id`, one number per covariate, in its own unit |
# | `search_events` | a result chosen | `user_id`, `timestamp` (ms since 1970), `category`, perhaps `suggested` (0/1) |
# | `recommendation_events` | an item shown | `user_id`, `timestamp`, `category`, `engaged` (0/1) |
#
# Rows come in any order, a user may lack a surface, and further columns are carried along.

# %%
dataset = hm.read_dataset("logs")
print(f"{dataset.name}: {dataset.n_users:,} users, {len(dataset.categories)} categories, {dataset.periods}")
print(f"{len(dataset.search_events):,} searches, {len(dataset.recommendation_events):,} items shown")
print(f"engaged with: {dataset.recommendation_events['engaged'].mean():.1%} of them")
print(dataset.users[exposure].agg(["mean", "std"]).round(2).to_string())

# %% [markdown]
# ### When a column is wrong
#
# What cannot be mended is listed, all at once and before anything is written, with table, column, row and the mend.
# Three faults, one a table: a covariate that is not there, a date that is none, an engagement neither yes nor no.

# %%
row = pd.Series(range(len(deliveries))) == 41
try:
    hm.from_frames(
        users.drop(columns="autoplay"),
        searches.assign(time=searches["time"].mask(searches.index == 99, "yesterday")),
        deliveries.assign(watched=deliveries["watched"].astype("str").mask(row, "perhaps")),
        exposure=exposure,
        preference=preference,
    )
except hm.DatasetError as error:
    print(*(f"- {problem}" for problem in error.problems), sep="\n")

# %% [markdown]
# A look at the data that no model needs: how much both surfaces show the same.

# %%
shares = pd.DataFrame(
    {"searched": dataset.search.sum(0), "shown": dataset.exposure.sum(0)}, dataset.categories
)
shares = (100 * shares / shares.sum()).sort_values("searched")
figure, ax = plt.subplots(figsize=(7, 3.2))
ax.hlines(shares.index, shares.min(axis=1), shares.max(axis=1), color="#d5dae0", lw=2, zorder=0)
ax.plot(shares["searched"], shares.index, "o", color="#D55E00", label="searched")
ax.plot(shares["shown"], shares.index, "s", color=PLATFORM, label="shown")
ax.set(
    xlabel="share of the surface's events, %", title="What is shown is not what is searched", xlim=(0, None)
)
ax.legend(frameon=False, loc="center right")
plt.show()

# %% [markdown]
# *What to see.* Long grey bars are categories that one surface has far more of than the other. This is a difference
# between surfaces, over all users; it is not yet an effect of anything.

# %% [markdown]
# ## Causal program
#
# The model is the same for every dataset; only its sizes come from the files. With $c^P$ the exposure and $c^Q$ the
# preference covariates, standardised:
#
# $$
# \begin{aligned}
# \text{platform}_k &= m_k(c^P) + s_k(c^P)\,\varepsilon_k + \textstyle\sum_j B_{jk}\,\text{preference}_j, &
# \text{exposure} &\sim \mathrm{Categorical}\{\mathrm{softmax} f_E(\text{platform})\}, \\
# \text{preference}_k &= m_k(c^Q) + s_k(c^Q)\,\varepsilon_k + \textstyle\sum_j B_{jk}\,\text{platform}_j, &
# \text{search} &\sim \mathrm{Categorical}\{\mathrm{softmax} f_S(\text{preference})\}, \\
# \text{engagement} &\sim \mathrm{Bernoulli}\{\mathrm{logit}^{-1}(b_{\text{cat}} + a_{\text{cat}}^\top\text{preference}
# + \alpha^\top\text{platform} + \delta(c^P) + \text{readiness})\}. &&
# \end{aligned}
# $$
#
# The window is cut into periods (here its ten days), and in each of them the logits have one term more: what the user
# searched, was shown and engaged with before (notebook 07).
#
# ```python
# search = pyro.sample("search", CategoryEvents(logits.search, totals["search"]))
# exposure = pyro.sample("exposure", CategoryEvents(logits.exposure, totals["exposure"]))
# engagement = pyro.sample("engagement", EngagementEvents(logits.engagement, exposure))
# ```
#
# You give two numbers, how many platform and how many preference factors, or leave them out, and they are selected
# (`hm.select`). To give them, start small, 2 and 2 or 2 and 3; a factor too few shows in the predictive checks, one
# too many in the report's "collapsed factors".

# %% [markdown]
# ## Causal query
#
# The policy: autoplay for a tenth of the sessions less. In the notation of interventions, the users'
# exposure covariates $c^P$ are set to $c^P - 0.1\,e_{\text{autoplay}}$, with all else of these users as it is:
#
# $$ \mathrm{TE} = \mathbb E\left[Y\left(\mathrm{do}(c^P - 0.1\,e)\right)\right]
# - \mathbb E\left[Y\left(\mathrm{do}(c^P)\right)\right] = \mathrm{NDE} + \mathrm{NIE}, $$
#
# with $Y$ the probability of engagement, or alignment. NDE is the natural direct effect, at the factors that the users
# have without the policy; NIE the natural indirect effect, through the factors. In Pyro this is `pyro.do` on the site
# `exposure_covariates`, with the noise of the users held by `pyro.condition`. In words, on the command line, in the
# column's own units or in standard deviations:
#
# ```
# pyro-hmvcrl effects run --shift autoplay=-0.1
# pyro-hmvcrl effects run --shift autoplay=-1sd
# ```

# %%
policy = "platform_1=+0.1" if QUICK else "autoplay=-0.1"  # a factor: fewer checks
print(policy)

# %% [markdown]
# ## Inference
#
# One call fits and judges. Its settings here are reduced; without them it takes some minutes. In a terminal it is
# `pyro-hmvcrl fit logs --out run --platform-factors 2 --preference-factors 2`. A fit that was killed goes on when the
# call is made again.

# %%
size = {"steps": 8, "encoder_steps": 5} if QUICK else {"steps": 300, "encoder_steps": 500, "batch_size": 512}
run = hm.fit(
    logs,
    platform_factors=2,
    preference_factors=2,
    out="run",
    progress=False,
    restarts=2,
    device="cpu",
    **size,
)
found = json.loads(Path("run/report.json").read_text())
for sentences in found["identifiability"]["verdict"].values():
    print(*(f"- {sentence}" for sentence in sentences), sep="\n")

# %% [markdown]
# Real logs have no truth, and so there is no MCC in the output: what speaks for the factors is this verdict. Read its
# first sentence first.
#
# Next month's logs of new users are read by the same fit: `pyro-hmvcrl encode run NEW --out factors.parquet`, or

# %%
run = hm.load_run("run")
print(run.encode(dataset.subset(range(3))).round(2).to_string(index=False))

# %% [markdown]
# ## Results
#
# ### The answer, and whether to believe it

# %%
answer = run.effects(policy, progress=False)
print(answer, "\n")
print(*answer.sentences, sep="\n")

# %% [markdown]
# All estimands, and beside them the truth, which is there for this tutorial only. `answer.to_frame()` is the table, and
# `answer.plot()` the figure.

# %%
truth = true_effects(sim, {"exposure_1": -1.0})["outcomes"]
estimates = answer.to_frame()
rows = {}
for outcome, part in [(outcome, part) for outcome in truth for part in ("TE", "NDE", "NIE")]:
    rows[f"{outcome}: {part}"] = [*estimates.loc[(outcome, part)], truth[outcome][part]]
print("percentage points, 90% intervals")
columns = ["estimate", "lower", "upper", "(truth)"]
print((100 * pd.DataFrame.from_dict(rows, "index", columns=columns)).round(2).to_string())

# %% [markdown]
# `judge` puts the answer's checks into words, as the report does:

# %%
checks = judge(
    answer.to_dict(), found["identifiability"]["verdict"], found["predictive"]["checks"], found["information"]
)
print(pd.DataFrame.from_dict(checks, "index", columns=["level", "why"]), "\n")
print(overall(checks)[1])

# %% [markdown]
# - **factors**: what the fit's verdict comes to.
# - **predictive**: whether logs that the fitted model makes look like these.
# - **overlap**: the share of users whom the policy moves where no users are.
# - **regression**: whether the users' own rates, regressed on the covariates without any model, tell of the same total.
# - **placebo**: the same shift of a copy of the covariates that was dealt out anew among users; its effects are zero.
#   They share one deal, so that where one interval misses zero by chance, several do: one probability judges them all.
#   Look at their *size* too: the grey bars in the figure of effects below.
# - **negative controls**: exposure covariates must not predict the noise of preference, nor the other way round.
# - **noise**: what covariates and graph leave open must be normal, and of one channel independent of the other's.
# - **rho**: how strongly an unmeasured cause would have to tie platform factors and engagement to undo NDE or NIE.
# - **e_values**: how strongly one would have to tie policy and engagement to undo the total effect.
# - **information**: whether users differ more than the model lets them, part by part (White's information-matrix test).
#
# ### The report
#
# `run.report()` draws it; the commands `fit` and `effects` do so as their last step. It is one page, `report.html`,
# that can be mailed; its figures also stand in `run/figures`.

# %%
page = run.report()
print(page, *sorted(path.name for path in Path("run/figures").glob("*.png")), sep="\n")


# %% tags=["thumbnail"]
def figure_of_report(name, width=800):
    """Show a figure that the report has drawn; dose and sensitivity are drawn for policies only."""
    if (file := Path(f"run/figures/{name}.png")).exists():
        display(Image(file, width=width))


figure_of_report("overview")

# %% [markdown]
# *What to see.* Left: each factor's distribution over held-out users, by thirds of the covariate that moves it most.
# Curves that stand apart or differ in width are what identification lives on; curves on top of each other mean a
# covariate that tells nothing. Right: the edges between channels; dashed ones are more likely absent.

# %%
figure_of_report("effects_forest")

# %% [markdown]
# *What to see.* One panel an outcome, each with its own scale. Direct and indirect effects on opposite sides of zero
# are suppression: the total hides two forces. Total engagement on one side of zero and alignment on the other is
# substitution, here undone: users engage less, and are shown more of what they look for. Grey bars are what the placebo
# gives.

# %%
figure_of_report("effects_dose")

# %% [markdown]
# *What to see.* The total effect of smaller and larger versions of the same policy, and below each size the share of
# users whom it moves outside the data. Where the line is dashed, the curve is the model's opinion, not the data's.

# %%
figure_of_report("effects_sensitivity", 560)

# %% [markdown]
# *What to see.* Where the indirect effect (dotted) first meets zero is the strength of hidden confounding that would
# undo it. The total does not move: what the indirect effect loses, the direct one gains. Whether so strong a cause is
# plausible on your platform is a question for those who run it.
#
# ### KuaiSAR, when you have it
#
# KuaiSAR (Sun et al. 2023) is the public dataset with both surfaces. Its licence does not let it be passed on, so you
# fetch it yourself:
#
# ```
# pyro-hmvcrl download-kuaisar data/raw
# pyro-hmvcrl import-kuaisar data/raw/KuaiSAR.zip kuaisar-data              # a dataset folder as above
# pyro-hmvcrl kuaisar data/raw/KuaiSAR.zip --out kuaisar-study              # import, fit, evaluate, report
# ```

# %%
print(SMALL.terms)

# %% [markdown]
# Without it, `simulate --format kuaisar` writes a **generated copy**: users who follow the model, in files of
# KuaiSAR's names, columns and oddities, with the truth beside them. A small one, and its import:

# %%
write_kuaisar_copy(Path("kuaisar-copy"), users=60 if QUICK else 600, seed=0, events=0.3)
print(Path("kuaisar-copy/GENERATED.txt").read_text())
command("pyro_hmvcrl import-kuaisar kuaisar-copy kuaisar-data")

# %% [markdown]
# Each row that was left out is counted with its reason, and `import.json` keeps the account together with every
# covariate, its definition and why it is in its block. Covariates are measured in the first quarter of the window and
# the events are those of the rest (`--covariates-share`), so that none is made of what it is to explain. Users with
# fewer than 10 events on both surfaces together are left out too (`--min-events`), which selects by activity:

# %%
account = json.loads(Path("kuaisar-data/import.json").read_text())
print(f"generated: {account['generated']}\n")
for covariate in account["covariates"][:11]:
    print(f"{covariate['block']:>10}  {covariate['name']:<16} {covariate['definition']}")

# %% [markdown]
# A covariate is *measured* from the files (mean log popularity of what a user was delivered, say). The copy knows what
# it planted, so that the import can be checked: measured against planted, one dot a user. Who was delivered nothing in
# the first quarter has no value, and the median in its place: these dots lie on one line, and are left out here.

# %%
measured = hm.read_dataset("kuaisar-data").users
planted = np.load("kuaisar-data/truth.npz")
row = pd.Index(planted["user_id"].astype(str)).get_indexer(measured["user_id"].astype(str))
figure, axes = plt.subplots(1, 3, figsize=(9, 2.8), layout="constrained")
for ax, name in zip(axes, ("popularity", "batch_size", "cadence"), strict=True):
    known = (measured[name] != measured[name].median()).to_numpy()
    x = planted["exposure_covariates"][row[known], EXPOSURE_COVARIATES.index(name)]
    ax.plot(x, measured[name][known], "o", color=PLATFORM, ms=3, alpha=0.4, mew=0)
    ax.set(xlabel=f"planted {name}, sd".replace("_", " "), ylabel="measured, log scale")
    ax.annotate(
        f"r = {np.corrcoef(x, measured[name][known])[0, 1]:.2f}", (0.04, 0.9), xycoords="axes fraction"
    )
figure.suptitle("The import measures from the files what was planted")
plt.show()

# %% [markdown]
# *What to see.* Straight clouds: the covariate that the model gets is the one that acted. The scatter is what the
# limited number of a user's deliveries in the first quarter leaves open, all the more as this copy has three tenths of
# KuaiSAR's events. A covariate that is measured with error has its effects understated.
#
# The whole study (`pyro-hmvcrl kuaisar kuaisar-copy --out kuaisar-copy-study`) fits the first 70% of the window, and
# holds it against the rest; `docs/kuaisar_study.md` has its table for a copy of 2,000 users. The package is plain about
# what that is worth: the commands **have not met the real archive yet**; a copy's figures say that the pipeline finds
# what was planted, and nothing of KuaiSAR; and the published MCC's reference is not described closely enough to be
# rebuilt, so that other references stand beside it rather than for it.

# %% [markdown]
# ## What could go wrong
#
# **A policy beyond the data.** The answer is refused where most users would be moved outside the support:

# %%
try:
    run.effects("autoplay=+1.0", progress=False)
except hm.InterventionError as error:
    print(error)

# %% [markdown]
# **Few users.** What counts as modulation must exceed the noise of a fit, so that the verdict's threshold rises when
# users are few, and intervals widen. [simulations/README.md](../simulations/README.md) has bias and coverage in worlds
# of 1,000 to 20,000 users, over many data seeds.
#
# **A covariate in the wrong block.** `cadence` in KuaiSAR is how often the feed is filled, which hangs on how often the
# user comes: the platform's decision in part only. Negative controls and the cross-R² of the report look for what
# leaks. To try without it, take its name out of `dataset.json`: the column stays in the table and leaves the model.
#
# **A covariate that follows engagement.** KuaiSAR's `click` *is* a threshold on playing time. Playing time as a
# covariate would predict engagement perfectly and explain nothing. No check can tell this from the numbers alone.
#
# **Suggested searches.** Queries that the platform proposed are not the user's own. Mark them in `search_events` by a
# column `suggested` (1, else 0), as `import-kuaisar` does: they then tell of both channels, the others of preference.
#
# **Feedback within the window.** If today's engagement changes tomorrow's feed, that is in the story (notebook 07). But
# exposure covariates that are *measured* in the same window are then partly its effect. Even without any feedback,
# what is made of the very events goes with them by its making: the mean duration of what was shown tells what was
# shown, with no policy in the world. Use covariates from before the window, and say so: with
# `"covariates_until": 1685000000000` (ms since 1970) in `dataset.json`, events before that moment are not used, and the
# report keeps it.
#
# **New categories.** A run reads new logs in its own categories. Events of a category that it does not know are left
# out, and this is said:

# %%
new = pd.read_parquet("logs/search_events.parquet")
new.assign(category=new["category"].replace("news", "podcasts")).to_parquet("logs/search_events.parquet")
print(*hm.read_dataset("logs", categories=run.categories).remarks, sep="\n")


# %% [markdown]
# ## Exercises
#
# 1. **Worse files.** Write the dates as `15.03.2024 14:05`, the shares as `35%`, and `engaged` as `Y` and `N`. What is
#    read, what is refused, and what does the mend say?
# 2. **Fewer genres.** Import with `--top-categories 6`. What becomes of alignment, and why is it no longer the same
#    quantity?
# 3. **The wrong block.** Move `follows` among the exposure covariates, and fit again. Does a negative control notice?
# 4. **Two policies.** Ask for `autoplay=-0.1` and for `refills_a_day=-1` in one call (a mapping of names to shifts),
#    and draw them side by side. Which costs less engagement for a point of alignment?
