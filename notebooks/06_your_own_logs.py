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
# From three CSV files to a report: how the files must look, what is said of a file that is wrong, the fit and the
# effects of a change, and how to read the report's figures. The last part of the results imports KuaiSAR, or, as here,
# a small generated copy of its files.

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

from pyro_hmvcrl.data import DatasetError, read_dataset
from pyro_hmvcrl.kuaisar.copy import write_kuaisar_copy
from pyro_hmvcrl.kuaisar.copy.population import EXPOSURE_COVARIATES
from pyro_hmvcrl.kuaisar.download import SMALL
from pyro_hmvcrl.queries import InterventionError, add, averages, effects, write_effects
from pyro_hmvcrl.report import write_report
from pyro_hmvcrl.report.verdicts import judge, overall
from pyro_hmvcrl.run import load_run
from pyro_hmvcrl.synthetic import SUBSTITUTION, Design, simulate, true_effects, write_simulation

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
# Assumptions of the model: within the window, preference does not drift and engagement does not feed back into
# exposure; searches are the user's own. Those of a causal reading: no unmeasured common cause of the exposure
# covariates and engagement (for NDE and NIE, nor of the factors and engagement); overlap, that is, users who already
# live under something like the new policy; and factors that are identified, for which covariates must move the factors'
# location and scale (see `03_fit_and_believe`).

# %% [markdown]
# ### The files
#
# | file | one row for | columns |
# |---|---|---|
# | `dataset.json` | | `name`, `exposure_covariates`, `preference_covariates`, perhaps `categories` |
# | `users.csv` | a user | `user_id`, one number per covariate, in its own unit |
# | `search_events.csv` | a result chosen | `user_id`, `timestamp` (ms since 1970), `category` |
# | `recommendation_events.csv` | an item shown | `user_id`, `timestamp`, `category`, `engaged` (0/1) |
#
# Parquet serves as well as CSV. Rows come in any order, a user may lack a surface, and further columns are carried
# along. We make logs of a video platform, with its own names and units. They are simulated, so that the answer can
# be held against the truth at the end; nothing before that uses it.

# %%
DESIGN = SUBSTITUTION | {"users": 200 if QUICK else 1_200, "preference_factors": 2, "categories": 12}
CATEGORIES = ["food", "music", "dance", "games", "sports", "film", "funny", "beauty", "cars"]
CATEGORIES += ["travel", "pets", "news"]
# Covariate of the simulation: name, mean and sd of the column that you would have
EXPOSURE = {"exposure_1": ("promoted_share", 0.3, 0.06), "exposure_2": ("refills_a_day", 6, 1.2)}
EXPOSURE |= {"exposure_3": ("items_a_refill", 10, 1.5), "exposure_4": ("mean_seconds", 35, 6)}
EXPOSURE |= {"exposure_5": ("mean_age_days", 20, 4)}
PREFERENCE = {"taste_1": ("queries_a_day", 2, 0.4), "taste_2": ("words_a_query", 3, 0.5)}
PREFERENCE |= {"taste_3": ("account_years", 4, 0.8), "taste_4": ("follows", 40, 9), "taste_5": ("age", 34, 7)}

sim = simulate(Design.with_knobs(**DESIGN), seed=0)
write_simulation(sim, Path("simulated"), seed=0, format="csv", truth=False)
users, searches, shown = (
    pd.read_csv(f"simulated/{table}.csv") for table in ("users", "search_events", "recommendation_events")
)
for column, (name, mean, sd) in (EXPOSURE | PREFERENCE).items():
    users[name] = (mean + sd * users.pop(column)).round(4)
users["country"] = "not a covariate: carried along"
for events in (searches, shown):
    events["category"] = [CATEGORIES[int(category[1:])] for category in events["category"]]

# %% [markdown]
# From here on as you would do it:

# %%
logs = Path("logs")
logs.mkdir()
users.to_csv(logs / "users.csv", index=False)
searches.to_csv(logs / "search_events.csv", index=False)
shown.to_csv(logs / "recommendation_events.csv", index=False)
description = {
    "name": "Video platform, ten days",
    "exposure_covariates": [name for name, _, _ in EXPOSURE.values()],
    "preference_covariates": [name for name, _, _ in PREFERENCE.values()],
}
(logs / "dataset.json").write_text(json.dumps(description, indent=2))
for table in ("users", "search_events", "recommendation_events"):
    print(f"{table}.csv", *(logs / f"{table}.csv").read_text().splitlines()[:3], sep="\n  ")

# %% [markdown]
# `read_dataset` checks everything, alone and against each other, before anything is fitted.

# %%
dataset = read_dataset(logs)
print(f"{dataset.name}: {dataset.n_users:,} users, {len(dataset.categories)} categories")
print(f"{len(dataset.search_events):,} searches, {len(dataset.recommendation_events):,} items shown")
print(f"engaged with: {dataset.recommendation_events['engaged'].mean():.1%} of them")
print(dataset.users[description["exposure_covariates"]].agg(["mean", "std"]).round(2).to_string())

# %% [markdown]
# ### When a column is wrong
#
# Bad input is one error, which names file, column, first bad line and the mend. Four ways to go wrong, one at a time:
# an engagement that is not 0 or 1, a covariate without a value, an event of a user who is in no table, and a
# covariate that the description promises and the table lacks.


# %%
def wrong(file, change):
    """What is said if one file is changed so; the file is put back."""
    right = (logs / file).read_text()
    change(pd.read_csv(logs / file)).to_csv(logs / file, index=False)
    try:
        read_dataset(logs)
    except DatasetError as error:
        print(f"- {error}")
    (logs / file).write_text(right)


shown_once = pd.Series(range(len(shown))) == 41
wrong(
    "recommendation_events.csv", lambda t: t.assign(engaged=t["engaged"].astype(str).mask(shown_once, "yes"))
)
wrong("users.csv", lambda t: t.assign(age=t["age"].mask(t.index == 6)))
wrong("search_events.csv", lambda t: t.assign(user_id=t["user_id"].mask(t.index == 99, "guest")))
wrong("users.csv", lambda t: t.drop(columns="promoted_share"))

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
# + \alpha^\top\text{platform} + \delta^\top c^P)\}. &&
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
# You choose two numbers: how many platform and how many preference factors. Start small, 2 and 2 or 2 and 3; a
# factor too few shows in the predictive checks, one too many in the report's "collapsed factors".

# %% [markdown]
# ## Causal query
#
# The policy: deliver 6 percentage points more promoted items. In the notation of interventions, the users'
# exposure covariates $c^P$ are set to $c^P + 0.06\,e_{\text{promoted}}$, with all else of these users as it is:
#
# $$ \mathrm{TE} = \mathbb E\left[Y\left(\mathrm{do}(c^P + 0.06\,e)\right)\right]
# - \mathbb E\left[Y\left(\mathrm{do}(c^P)\right)\right] = \mathrm{NDE} + \mathrm{NIE}, $$
#
# with $Y$ the probability of engagement, or alignment. NDE is the natural direct effect, at the factors that the users
# have without the policy; NIE the natural indirect effect, through the factors. In Pyro this is `pyro.do` on the site
# `exposure_covariates`, with the noise of the users held by `pyro.condition`. In words, on the command line, in the
# column's own units or in standard deviations:
#
# ```
# pyro-hmvcrl effects run --shift promoted_share=+0.06 --out effects.json
# pyro-hmvcrl effects run --shift promoted_share=+1sd --out effects.json
# ```

# %%
policy = [add("platform_1", 0.1)] if QUICK else [add("promoted_share", 0.06)]  # a factor: fewer checks
print(*policy)

# %% [markdown]
# ## Inference
#
# One command fits, judges and writes the report. Its settings here are reduced; without the last three options it
# takes some minutes. The same in Python is `fit_folder(Path("logs"), Path("run"), Settings(2, 2))`. A fit that was
# killed goes on when the command is given again.

# %%
size = "--steps 8 --encoder-steps 5" if QUICK else "--steps 300 --encoder-steps 500 --batch-size 512"
command(
    f"pyro_hmvcrl fit logs --out run --platform-factors 2 --preference-factors 2 --restarts 2 --device cpu {size}"
)
print(*sorted(path.name for path in Path("run").iterdir()), sep="  ")

# %% [markdown]
# (In a terminal the command is `pyro-hmvcrl`.) Real logs have no truth, and so there is no MCC in the output: what
# speaks for the factors is the verdict. Read its first sentence first.
#
# Next month's logs of new users are read by the same fit: `pyro-hmvcrl encode run NEW --out factors.parquet`, or

# %%
run = load_run(Path("run"))
print(run.encode(dataset.subset(range(3))).round(2).to_string(index=False))

# %% [markdown]
# ## Results
#
# ### The answer, and whether to believe it

# %%
answer = effects(Path("run"), policy)
write_effects(answer, Path("run/effects.json"))  # where the report looks for it
truth = true_effects(sim, {"exposure_1": 1.0})["outcomes"]
rows = {}
for outcome, part in [(outcome, part) for outcome in truth for part in ("TE", "NDE", "NIE")]:
    estimate = answer["outcomes"][outcome][part]
    rows[f"{outcome}: {part}"] = [
        *(estimate[end] for end in ("mean", "lower", "upper")),
        truth[outcome][part],
    ]
print("percentage points, 90% intervals")
columns = ["estimate", "lower", "upper", "(truth)"]
print((100 * pd.DataFrame.from_dict(rows, "index", columns=columns)).round(2).to_string(), "\n")
print(*answer["sentences"], sep="\n")

# %% [markdown]
# The last column is for this tutorial only. `judge` puts the answer's checks into words, as the report does:

# %%
found = json.loads(Path("run/report.json").read_text())
checks = judge(
    answer, found["identifiability"]["verdict"], found["predictive"]["checks"], found["information"]
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
# - **rho**: how strongly an unmeasured cause would have to tie platform factors and engagement to undo the NIE.
#
# ### The report
#
# `pyro-hmvcrl report run` draws it; `fit` and `effects` do so as their last step. It is one page, `report.html`, that
# can be mailed; its figures also stand in `run/figures`.

# %%
page = write_report(Path("run"))
print(page, *sorted(path.name for path in Path("run/figures").glob("*.png")), sep="\n")


# %%
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
# are suppression: the total hides two forces. Total engagement to the right and alignment to the left of zero is
# substitution: users engage more, with what they look for less. Grey bars are what the placebo gives.

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
measured = read_dataset("kuaisar-data").users
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
# holds it against the rest; the README has its table for a copy of 2,000 users. The package is plain about what that
# is worth: the commands **have not met the real archive yet**; a copy's figures say that the pipeline finds what was
# planted, and nothing of KuaiSAR; and the published MCC's reference is not described closely enough to be rebuilt,
# so that other references stand beside it rather than for it.

# %% [markdown]
# ## What could go wrong
#
# **A policy beyond the data.** The answer is refused where most users would be moved outside the support:

# %%
try:
    effects(Path("run"), [add("promoted_share", 0.6)])
except InterventionError as error:
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
new = searches.assign(category=searches["category"].replace("news", "podcasts"))
new.to_csv(logs / "search_events.csv", index=False)
print(*read_dataset(logs, categories=run.categories).remarks, sep="\n")
