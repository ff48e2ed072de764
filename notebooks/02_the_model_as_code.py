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
# # The model as code
#
# The model of this package is one Pyro program, `pyro_hmvcrl/story/model.py`. This notebook reads it line by line: each
# formula stands beside the lines that it becomes. Then it asks three questions of the program before any data are
# fitted. Does the code have the causal graph that the formulas have? Does it agree with an independent
# implementation? And what logs does its prior make?
#
# ## Setup

# %%
import inspect
import os
import shutil
import warnings
from importlib.util import find_spec
from textwrap import dedent

warnings.filterwarnings("ignore", message="IProgress not found")  # no progress bar is shown here

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from IPython.display import Image, Markdown, display
from matplotlib.lines import Line2D
from pyro.infer.inspect import get_model_relations

import pyro_hmvcrl as hm
from pyro_hmvcrl.evidence.predictive import Counts, entropy, replicate, user_alignment, user_rate
from pyro_hmvcrl.queries import hold
from pyro_hmvcrl.queries.interventions import run
from pyro_hmvcrl.queries.mediation import engagement
from pyro_hmvcrl.story import (
    HMVCRL,
    CategoryDecoder,
    CategoryEvents,
    Logs,
    StructuralGraph,
    at,
    engagement_logits,
    line,
    location_scale,
    observe,
    scale_of,
)
from pyro_hmvcrl.story.emissions import DECODER_PRIOR, EventCounts
from pyro_hmvcrl.story.programs import log_prob

QUICK = bool(os.environ.get("HMVCRL_QUICK"))
PLATFORM, PREFERENCE, ENGAGEMENT, GREY = "#0072B2", "#D55E00", "#009E73", "#818b96"
USERS, PRIOR_DRAWS = (200, 20) if QUICK else (1_000, 200)
USER_SITES = ("noise", "search", "exposure", "engagement")
plt.rcParams.update({"figure.dpi": 110, "font.size": 9, "axes.spines.top": False, "axes.spines.right": False})

# %% [markdown]
# Two helpers. `excerpt` shows the lines of a function from one that has some words in it to another; so every
# piece of the program below is the program's own text, and not a copy that could grow old. `tensor` turns numpy
# arrays into the model's precision.


# %%
def excerpt(of, first, last):
    lines = dedent(inspect.getsource(of)).splitlines()
    start = next(i for i, line in enumerate(lines) if first in line)
    stop = next(i for i, line in enumerate(lines[start:], start) if last in line)
    display(Markdown("```python\n" + dedent("\n".join(lines[start : stop + 1])) + "\n```"))


def tensor(array):
    return torch.as_tensor(array, dtype=torch.float32)


# %% [markdown]
# ## Question and assumptions
#
# **Question.** What does one believe of a log when one writes down this program? A causal model is a set of claims
# about what does *not* depend on what. Each should be visible in the code.
#
# For user $n$ there are exposure covariates $c^P$ (what the platform did) and preference covariates $c^Q$ (the user
# apart from it), and factors $z = (\text{platform}_1, \dots, \text{preference}_1, \dots)$, platform first. Search
# events are started by users, recommendation events (exposures) by the platform; some exposures are engaged with.
#
# The assumptions, in words; a table at the end of the next section gives the line that encodes each:
#
# 1. **Exogenous noise**: independent standard normal for each user and factor, the same whatever the policy is.
# 2. **Own covariates**: $c^P$ sets platform factors and $c^Q$ preference factors, never the other way round.
# 3. **Location and scale**: covariates move both. That is what identifies factors inside a channel (iVAE).
# 4. **Edges between channels only**, and no cycles.
# 5. **Search sees preference only**, **exposure sees platform only**.
# 6. **Events are exchangeable given the factors and the past**: no order within a period, no drift of the factors.
# 7. **Engagement** depends on the category that was shown, on both channels, directly on $c^P$, and on the user's own
#    readiness; on nothing else that also moves the platform factors (no unmeasured mediator-outcome confounder).
# 8. **No interference**: users do not act on each other.
#
# ## Causal program
#
# The objects below are a small simulated world with known truth, its logs as the model reads them, and an empty
# model of the same size.

# %%
design = hm.Design(users=USERS, preference_factors=2, categories=12)
sim = hm.simulate(design, 0)
logs = Logs.of(*sim.observed)
torch.manual_seed(0)
model = HMVCRL(2, 2, 5, 5, 12)
print(
    *(f"{name}: {tuple(part.shape)}" for name, part in logs._asdict().items() if torch.is_tensor(part)),
    sep="\n",
)

# %% [markdown]
# Logs are counts by category. Given the factors a user's events are exchangeable, so the counts are sufficient. The
# window is one period here, so that there is no past; what more periods add is below.
#
# ### Structural coefficients and their priors
#
# $$B_{jk} \sim \text{Laplace}(0, 0.3), \qquad \text{all others} \sim \text{Normal}(0, \sigma^2)$$
#
# One `pyro.sample` a coefficient, outside the plate of users: they are drawn once, for all users.

# %%
excerpt(HMVCRL.structural_coefficients, "return {", "}")
priors = [(name, prior.__name__, scale, str(shape)) for name, (prior, scale, shape) in model.priors.items()]
pd.DataFrame(priors, columns=["coefficient", "prior", "scale", "shape"]).set_index("coefficient")

# %% [markdown]
# ### Mechanisms: covariates to location and scale
#
# $$m(c) = W_m^\top c + V_m^\top \text{bent}(c), \qquad \log s(c) = 2 \tanh\!\big(W_s^\top c \,/\, 2\big),
# \qquad \text{bent}(c) = \sqrt{1 + c^2} - 1$$
#
# A factor's location is a line along each covariate, which may bend where the covariate is at its mean.
# No intercept: a factor has no origin and no unit of its own, and leaving both intercepts out fixes them. The
# $\tanh$ bounds the log scale, so that a covariate with a long tail cannot explode a factor.

# %%
excerpt(location_scale, "return", "return")
excerpt(line, "may_bend =", "return")
excerpt(scale_of, "bounded =", "return")
excerpt(HMVCRL.mechanisms, "platform = location_scale", "return")

# %% [markdown]
# Assumption 2 is in the arguments: `c_p` goes with the weights of `platform`, `c_q` with those of `preference`.
#
# ### Noise and factors
#
# $$\varepsilon_{nk} \sim \text{Normal}(0, 1), \quad k = 1, \dots, K + 1, \qquad
# z_n = B^\top z_n + m(c_n) + s(c_n) \odot \varepsilon_n$$

# %%
excerpt(HMVCRL.forward, "standard = dist.Normal", "readiness = pyro")

# %% [markdown]
# The last part of the noise is readiness, which the engagement reads.
#
# The site is the *standardised* noise $\varepsilon$, not $m + s\,\varepsilon$. The difference looks cosmetic and is
# not; the last section shows what it costs.
#
# ### The structural graph
#
# $$z_k = m_k + s_k\,\varepsilon_k + \sum_{j \to k} B_{jk}\, z_j$$
#
# Once it is oriented, the graph is evaluated parents first. Every factor is a `pyro.deterministic` site, and the sum
# reads the *sites* of the parents: a factor that `pyro.do` has forced is what its children see.

# %%
excerpt(StructuralGraph.factors, "z_of:", "return")
excerpt(StructuralGraph.__init__, "preference = torch.arange", "allowed")

# %% [markdown]
# `allowed` has ones between channels only (assumption 4). In a fit both directions of a pair start out free;
# half-way, `orient` keeps the stronger of each pair unless it would close a cycle.
#
# ### Emissions
#
# $$\text{search}_t \sim \text{Categorical}\big(\text{softmax} f_S(\text{preference})\big), \qquad
# \text{exposure}_t \sim \text{Categorical}\big(\text{softmax} f_E(\text{platform})\big)$$
#
# $$f(z) = \text{intercept} + z\,\text{linear} + \tanh(z\,\text{inner} + \text{shift})\,\text{outer}$$

# %%
excerpt(HMVCRL.of_user, "platform, preference =", "return")
excerpt(CategoryDecoder.forward, "linear = self.intercept", "return")

# %% [markdown]
# $$\text{engaged}_t \mid \text{category } c \;\sim\; \text{Bernoulli}\Big(\sigma\big(b_c + a_c^\top
# \text{preference} + \alpha^\top \text{platform} + \delta(c^P) + \text{readiness}\big)\Big)$$
#
# $\delta(c)$ is the direct path, a line that may bend, too. Readiness is the user's own: some engage with more of
# whatever they are shown. Where nobody does, its standard deviation is learned to be near 0.

# %%
excerpt(engagement_logits, "a, b, alpha", "return")
excerpt(HMVCRL.period, "search = pyro.sample", "return")

# %% [markdown]
# ### Periods and the past
#
# With several periods $t = 1, \dots, T$ each adds to these logits what the user's own past says: learning of the
# platform, influence on searches, familiarity with what was shown. The past is drawn period by period:

# %%
excerpt(HMVCRL.forward, "learning = self.learning", "past = past.and_then")
excerpt(HMVCRL.learning, "along, bend =", "return")

# %% [markdown]
# In the logs the past is observed, so that the likelihood is a product over periods; under `pyro.do` it is a
# consequence. Notebook 07 is about that.

# %% [markdown]
# ### Does the code have this graph? First answer: `pyro.render_model`
#
# Pyro can draw a program's graph. It marks every tensor with the sites that it came from (provenance) and reports,
# for each site, the marks that reach it. Drawing needs the program `dot` of Graphviz and the Python package
# `graphviz`. The cell uses them if they are here, and says so if not; the marks themselves need neither.

# %%
needed = {"the program dot": shutil.which("dot"), "the Python package graphviz": find_spec("graphviz")}
missing = [name for name, found in needed.items() if not found]
if missing:
    print(
        f"No picture by pyro.render_model: {' and '.join(missing)} not found. The same graph is drawn below."
    )
else:
    picture = pyro.render_model(model, (logs,), render_deterministic=True)
    display(Image(picture.pipe(format="png"), width=900))

# %% [markdown]
# ### Second answer: the graph by intervention
#
# Provenance marks whole tensors. The program joins both channels in one tensor before it solves the graph, so a mark
# of one channel spills over to the other, and the picture has more arrows than the model. An *experiment* on the
# program is exact: hold **all** sites at their values, change one, and see which sites are computed otherwise. These
# are its children, by the definition of a direct cause. In a trace under `pyro.do`, a site's own node still has the
# value that the program computed before it was overruled, which is just what is needed.
#
# The coefficients are one draw from the prior, so that none is zero. `prior_draw` comes back later, with
# `narrow` on.


# %%
def prior_draw(seed, narrow=False):
    torch.manual_seed(seed)
    drawn = HMVCRL(2, 2, 5, 5, 12)
    trace = pyro.poutine.trace(drawn.structural_coefficients).get_trace()
    of_covariates = [
        name for name in drawn.priors if name.endswith(("location", "bend", "log_scale", "delta"))
    ]
    values = {name: trace.nodes[name]["value"] for name in drawn.priors}
    values |= {name: values[name] / 5**0.5 for name in of_covariates if narrow}
    drawn.graph.orient(values["edges"])
    for name, weight in drawn.named_parameters():
        if (part := name.rpartition(".")[2]) in DECODER_PRIOR:
            values[name] = DECODER_PRIOR[part] * torch.randn_like(weight) / (1 + narrow)
    return drawn, values


def computed(world, site):
    node = world.trace.nodes[site]
    events = isinstance(node["fn"], EventCounts)
    return (node["fn"].logits, node["fn"].total) if events else (node["value"],)


def children(program, source, sites):
    natural = run(program, (logs,))
    now = {site: natural[site] for site in sites}
    moved = run(program, (logs,), now | {source: now[source] + 1}, natural)
    pairs = {site: zip(computed(natural, site), computed(moved, site), strict=True) for site in sites}
    return [site for site, pair in pairs.items() if not all(torch.allclose(x, y) for x, y in pair)]


# %%
drawn, values = prior_draw(0)
sites = ["exposure_covariates", "preference_covariates", *drawn.graph.names, *USER_SITES]
noise = torch.randn(USERS, 5, generator=torch.Generator().manual_seed(0))
program = observe(hold(at(drawn, values), noise=noise), logs)
found = {(source, target) for source in sites for target in children(program, source, sites)}
marks = get_model_relations(drawn, (logs,), include_deterministic=True)["sample_sample"]
marked = {(source, target) for target in sites for source in marks[target] if source in sites} - {
    (site, site) for site in sites
}
print(
    f"arrows by provenance {len(marked)}, by intervention {len(found)}; only by intervention: {len(found - marked)}"
)

# %%
PLACES = {"exposure_covariates": (0, 3.2), "noise": (0, 1.5), "preference_covariates": (0, -0.2)}
PLACES |= {
    "platform_1": (2, 3.6),
    "platform_2": (3.7, 2.1),
    "preference_1": (2, -0.6),
    "preference_2": (3.7, 0.9),
}
PLACES |= {"exposure": (5.8, 3.6), "engagement": (5.8, 1.5), "search": (5.8, -0.6)}
HUES = {"platform": PLATFORM, "preference": PREFERENCE, "exposure": PLATFORM, "search": PREFERENCE}
HUES |= {"noise": GREY, "engagement": ENGAGEMENT}
BENT = ("exposure_covariates", "engagement")  # would run through a box


def draw_arrows(ax, boxes, arrows, **look):
    for source, target in sorted(arrows):
        bend = f"arc3,rad={0.21 if (source, target) == BENT else 0}"
        ends = {"patchA": boxes[source], "patchB": boxes[target], "shrinkA": 0, "shrinkB": 1}
        arrow = {"arrowstyle": "-|>", "connectionstyle": bend, "mutation_scale": 11} | ends | look
        ax.annotate("", PLACES[target], PLACES[source], arrowprops=arrow)


figure, ax = plt.subplots(figsize=(9, 5), layout="constrained")
ax.set(
    xlim=(-0.7, 6.5),
    ylim=(-1.1, 4.1),
    title="The channels meet in edges between factors and in engagement, nowhere else",
)
ax.set_axis_off()
boxes = {}
for site, place in PLACES.items():
    box = {"boxstyle": "round,pad=0.45", "fc": HUES[site.partition("_")[0]], "ec": "none"}
    look = {"color": "white", "ha": "center", "va": "center", "weight": "bold", "bbox": box}
    boxes[site] = ax.text(*place, site.replace("_", "\n", 1), **look).get_bbox_patch()
figure.canvas.draw()
draw_arrows(ax, boxes, marked - found, color="#b9c0c8", lw=0.9, ls=(0, (4, 3)))
draw_arrows(ax, boxes, found, color="#24292f", lw=1.2)
looks = {
    "confirmed by intervention": ("#24292f", "-"),
    "provenance only: same tensor": ("#b9c0c8", (0, (4, 3))),
}
handles = [Line2D([], [], color=hue, ls=dash, label=name) for name, (hue, dash) in looks.items()]
figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
plt.show()

# %% [markdown]
# What to see: no solid arrow runs from one block of covariates to the other channel's factors, none from a platform
# factor to search, and none from a preference factor to exposure. These absent arrows *are* assumptions 2 and 5. The
# dashed ones are what provenance (and so `render_model`) adds. The direction of the arrows between the channels is
# that of this draw from the prior; in a fit the data choose it.
#
# ### The same story, written twice
#
# `synthetic/world.py` tells the same story in numpy, written apart from the model. Given the same parameters,
# covariates and noise, the two must compute the same factors and the same probabilities. `World.parameters` names the
# simulated world's parameters as the model does.

# %%
truth = {name: tensor(array) for name, array in sim.world.parameters().items()}
model.graph.orient(truth["edges"])
noise = torch.nn.functional.pad(tensor(sim.noise), (0, 1))  # of readiness: none
world = run(hold(observe(at(model, truth), logs), noise=noise), (logs,))
factors = torch.stack([world[name] for name in model.graph.names], -1)
log_odds = sim.world.engagement_logits(sim.factors, sim.exposure_covariates)
print(f"largest difference of a factor   {(factors - tensor(sim.factors)).abs().max():.1e}")
print(
    f"largest difference of a log odds {(world.distribution('engagement').logits - tensor(log_odds)).abs().max():.1e}"
)

# %% [markdown]
# ### Each assumption and its line
#
# The cell looks every line up in the source, and stops if one is not there.

# %%
LINES = [
    (
        "1 noise is exogenous and standard",
        HMVCRL.forward,
        "dist.Normal(self.zero, self.one).expand([self.n_noise])",
    ),
    ("2 own covariates only", HMVCRL.mechanisms, "platform = location_scale("),
    (
        "3 location and scale",
        location_scale,
        "return line(covariates, curved, location, bend), scale_of(covariates, log_scale)",
    ),
    (
        "4 edges between channels only",
        StructuralGraph.__init__,
        "(preference[:, None] != preference[None, :])",
    ),
    (
        "4 no cycles",
        StructuralGraph.orient,
        "if self.allowed[source, target] and not reaches[target, source]:",
    ),
    ("5 search sees preference only", HMVCRL.of_user, "self.f_search(preference)"),
    ("5 exposure sees platform only", HMVCRL.of_user, "self.f_exposure(platform)"),
    ("6 events are exchangeable", CategoryEvents.log_prob, "(value * self.logits).sum(-1)"),
    (
        "7 engagement: what it depends on",
        HMVCRL.of_user,
        "engagement_logits(coefficients, platform, preference, user)",
    ),
    ("8 no interference", HMVCRL.forward, 'pyro.plate("users", logs.n_users, subsample=logs.index)'),
]
rows = []
for assumption, of, text in LINES:
    if text not in inspect.getsource(of):
        raise ValueError(f"{of.__qualname__} has changed: {text}")
    rows.append(f"| {assumption} | `{of.__qualname__}` | `{text}` |")
display(Markdown("\n".join(["| assumption | where | line |", "|---|---|---|", *rows])))

# %% [markdown]
# Assumption 7 is one of omission: no other term enters the log odds. The next notebooks ask what happens when one
# should.
#
# ## Causal query
#
# Questions are asked of the program by two handlers. `pyro.do` forces a site, and `pyro.condition` holds one that is
# random. Held noise means that two worlds have the *same users*.

# %%
shift = torch.eye(5)[0]  # one unit of the first exposure covariate, which here is one standard deviation
held = pyro.condition(observe(at(model, truth), logs), data={"noise": noise})
before = held(logs)  # the program returns the users' factors
questions = {
    "policy: exposure_1 + 1": {"exposure_covariates": logs.exposure_covariates + shift},
    "factor: platform_1 + 1": {"platform_1": before[:, 0] + 1},
    "factor: preference_1 + 1": {"preference_1": before[:, 2] + 1},
}
moved = {question: pyro.do(held, data=forced)(logs) - before for question, forced in questions.items()}

# %%
table = pd.DataFrame({q: by.mean(0).tolist() for q, by in moved.items()}, index=model.graph.names).T
worlds = {question: run(held, (logs,), forced, world) for question, forced in questions.items()}
table["P(engaged)"] = [(engagement(w) - engagement(world)).mean().item() for w in worlds.values()]
table.round(3)

# %% [markdown]
# The mean change of each factor, and of the probability to engage with what is shown next. What to see: a factor
# moves only if it is downstream of what was forced. In this world platform factors act on preference factors, so
# that the third row has no change on the platform side, while the second has one on the preference side. The returned
# factors give the first columns; the probability needs a *world*, the trace of the program under the intervention.
#
# `interventions.run` is one call of `pyro.do`, with the checks that `pyro.do` leaves to its caller. The next cell has
# what Pyro does with a misspelt site, and what `run` does.

# %%
misspelt = {"platfrom_1": before[:, 0] + 1}
print("pyro.do moved", (pyro.do(held, data=misspelt)(logs) - before).abs().max().item(), "and said nothing")
try:
    run(held, (logs,), misspelt, world)
except ValueError as error:
    print("run said:", str(error).partition(":")[0])

# %% [markdown]
# ## Inference
#
# Nothing is fitted in this notebook. What inference will need of the program is the log joint density of one user's
# noise and events; the trace has it, site by site. Here are its means over users at the true parameters and the true
# noise, in nats a user.

# %%
pd.Series({site: log_prob(world.trace, site).mean().item() for site in USER_SITES}, name="nats a user").round(
    1
)

# %% [markdown]
# The **prior predictive distribution** needs no data either: draw all parameters from their priors, draw users, let
# the program make logs. Covariates and numbers of events are those of the simulated logs, as the model is a story
# *given* these. Structural coefficients have the priors listed above, decoder weights the weak Normal ones of
# `emissions.DECODER_PRIOR`; the fit finds the mode of the latter. For comparison a *narrower* prior: weights of
# covariates divided by $\sqrt 5$, as there are five covariates a channel, and those of the decoders by 2.


# %%
def prior_logs(narrow):
    rng = np.random.default_rng(0)
    return [replicate(*prior_draw(seed, narrow), logs, rng) for seed in range(PRIOR_DRAWS)]


made, narrower = prior_logs(False), prior_logs(True)
seen = Counts(sim.search, sim.exposure, sim.engagement)
print(f"{len(made)} logs of {USERS} users each; standard deviations of decoder weights: {DECODER_PRIOR}")

# %% [markdown]
# ## Results
#
# ### Categories


# %% tags=["thumbnail"]
def shares(events):
    return np.sort(events.sum(0) / events.sum())[::-1]


figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained", sharey=True)
rank = np.arange(1, 13)
for ax, surface, hue in zip(axes, ("search", "exposure"), (PREFERENCE, PLATFORM), strict=True):
    low, middle, high = np.quantile([shares(getattr(c, surface)) for c in made], [0.05, 0.5, 0.95], axis=0)
    ax.fill_between(rank, low, high, color=GREY, alpha=0.3, lw=0, label="prior, 90% of its logs")
    ax.plot(rank, middle, color=GREY, lw=1.5, label="prior, median")
    ax.plot(rank, shares(getattr(seen, surface)), "o-", color=hue, ms=4, label="simulated logs")
    ax.set(yscale="log", xlabel="category, by rank of its share", title=surface, xticks=rank)
    ax.legend(frameon=False)
axes[0].set_ylabel("share of all events")
figure.suptitle("The prior's rare categories are rarer than those of the simulated logs")
plt.show()
# %% [markdown]
# What to see: the coloured line is flatter than the grey band. In the prior's logs a few categories take most of the
# events, and some categories hardly occur.
#
# ### Users
#
# Three things that can be computed for each user: the share of exposures that the user engages with, and the entropy
# of the user's searches and of what the user is shown (0: one category only; $\log 12 \approx 2.48$ nats: all alike).

# %%
figure, axes = plt.subplots(1, 3, figsize=(9, 3), layout="constrained")
panels = [
    (user_rate, "share of a user's items engaged with", ENGAGEMENT),
    (lambda c: entropy(c.search), "entropy of a user's searches, nats", PREFERENCE),
    (lambda c: entropy(c.exposure), "entropy of what a user is shown, nats", PLATFORM),
]
for ax, (of, name, hue) in zip(axes, panels, strict=True):
    bins = np.linspace(0, 1 if of is user_rate else np.log(12), 25)
    look = {"bins": bins, "density": True}
    ax.hist(
        np.concatenate([of(c) for c in made]), color=GREY, alpha=0.45, label="prior, all its logs", **look
    )
    ax.hist(of(seen), histtype="step", color=hue, lw=1.8, label="simulated logs", **look)
    ax.set(xlabel=name, yticks=[])
    ax.spines["left"].set_visible(False)
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, 1.16), fontsize=7.5)
axes[0].set_ylabel("density over users")
figure.suptitle("The prior's users are more extreme than the simulated ones")
plt.show()
# %% [markdown]
# What to see: the prior puts many users at the ends, engaging with nearly nothing or nearly everything, and with few
# categories each. Why: each of the five covariates of a channel moves a factor's location by a Normal(0, 1) weight, so
# that the prior's factors vary about $\sqrt 5$ times as much between users as those of the simulated world do, and
# these factors then meet decoder weights that are large too.
#
# ### In numbers
#
# For each statistic of the whole log: the simulated value, the prior's quantiles, the same of the narrower prior, and
# the share of each prior's logs that have less than the simulated ones.

# %%
asked = {
    "engagement: mean over users": lambda c: user_rate(c).mean(),
    "engagement: sd over users": lambda c: user_rate(c).std(),
    "entropy of searches, nats": lambda c: entropy(c.search).mean(),
    "entropy of exposures, nats": lambda c: entropy(c.exposure).mean(),
    "alignment: shown what is searched": lambda c: user_alignment(c).mean(),
}
rows = {}
for name, of in asked.items():
    rows[name] = {("", "simulated"): of(seen)}
    for prior, those in (("prior", made), ("narrower", narrower)):
        replicated = np.array([of(c) for c in those])
        quantiles = np.quantile(replicated, [0.05, 0.5, 0.95])
        rows[name] |= {(prior, f"{q}%"): value for q, value in zip((5, 50, 95), quantiles, strict=True)}
        rows[name][prior, "less"] = (replicated < of(seen)).mean()
pd.DataFrame(rows).T.round(2)

# %% [markdown]
# A value of 0 or 1 under "less" says that logs like the simulated ones are not what the prior expects: the priors are
# wide, and expect users who differ more, and have fewer categories each. They are meant to be weak beside the logs of
# many users, and the studies in `simulations/README.md` show what bias is left. But their width is stated for each
# weight, and what that means for the logs grows with the number of covariates. With few users or many covariates this
# is the table to look at first. To narrow a prior, change `model.priors` in the `build` of `inference.screen`, which is
# given the new model (this is the first stage alone; `fit_folder` has no such argument).
#
# ## What could go wrong
#
# ### The wrong noise site
#
# Write $u \sim \text{Normal}(m(c), s(c))$ and use $u$ as the noise: the joint distribution is the same, and without
# interventions nobody can tell the two programs apart. But holding $u$ fixed holds the covariates' effect fixed too.


# %%
def two_programs(c, standardised):
    c = pyro.deterministic("c", c, event_dim=0)
    own = dist.Normal(0.0, 1.0) if standardised else dist.Normal(2 * c, (0.5 * c).exp())
    u = pyro.sample("noise", own.expand(c.shape).to_event(1))
    return 2 * c + (0.5 * c).exp() * u if standardised else u


c = torch.zeros(1_000)
for standardised in (True, False):
    same_users = pyro.condition(two_programs, data={"noise": torch.randn(1_000)})
    moved = pyro.do(same_users, data={"c": c + 1})(c, standardised) - same_users(c, standardised)
    print(f"standardised {standardised!s:5}: the policy moves the factor by {moved.mean():.2f}")

# %% [markdown]
# With its noise held, the second program says that no policy moves this factor. No error is raised.
#
# ### Assumptions that fail, and what warns
#
# | what fails | what happens | what warns |
# |---|---|---|
# | covariates move location only, or nothing | factors are found up to rotation only | the report's verdict |
# | an edge inside a channel | that channel's decoder absorbs it | nothing, without the truth |
# | $c^P$ reaches preference past the graph | edges and mediation are biased | `checks.negative_controls` |
# | an unmeasured cause of both channels | their noise goes together | `checks.noise_checks` |
# | an unmeasured cause of platform and engagement | NDE and NIE are biased | nothing; ask `checks.rho_curve` |
# | more factors than modelled, skewed emissions | what the story does not tell | `predictive.py`, in the report |
# | a past that acts otherwise than in `history.py` | effects of policies are biased | the answer's regression |
# | order within a period, drifting tastes | invisible: only counts by period are modelled | nothing |
# | a policy beyond the data | the mechanisms extrapolate their lines | `overlap.overlap` |
#
# ### Pictures of programs
#
# `render_model` draws a superset of the graph. It is a good check that nothing is missing, and a poor one that
# something is absent; for that, intervene.

# %% [markdown]
# ## Exercises
#
# 1. **Hold the wrong thing.** In the first cell of *What could go wrong*, let the covariate move the scale only (a mean
#    of 0). What do the two programs say of the policy's effect on the factor's spread?
# 2. **An edge more.** Add an edge from `preference_1` to `platform_1` beside the one the other way round. Where in the
#    program does the circle show, and what would a density over both directions need?
# 3. **Your own site.** Add a second response to the story (a like, say, after an engagement): which plate does it
#    stand in, what are its parents, and which view exclusion does it have to keep?
