"""Floor: what does a step of training cost beyond what it cannot do without?

A step of the second stage, in which all time of a fit goes to the encoders, against two floors on the same batch:

``encoders``    the same two Transformers' bare forward and backward, without model and loss;
``by hand``     the same loss, written out in plain torch, without Pyro: `loss_by_hand`.

Each with its Adam step.  The three take turns, so that what else the machine does falls on all alike.  Worlds of the
``hard`` design of ``recovery`` (3 + 3 factors, 30 categories).

Where there is a GPU, it is measured too, up to batches that fill it: steps are recorded there, as in a fit;
``unrecorded`` is a step whose kernels Python launches one by one, and one that waits for the GPU ends the benchmark
with an error.  Beside that, a whole fit of the ``default`` design on each device: its seconds, and its factors' MCC.

Run  ``python simulations/floor.py`` (three minutes on one core).  Writes ``simulations/floor/results.csv``: device,
threads, users in the batch, milliseconds a step (medians over `ROUNDS` rounds), users per second, the share of a step's
work that is in products of matrices, and the ratios of a step to the floors with their quartiles over rounds; and
``fits.csv``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pyro
import torch
from torch import Tensor
from torch.nn.functional import softplus

from pyro_hmvcrl.evidence.measures import mcc
from pyro_hmvcrl.guide.experts import factor_posterior, product_of_experts
from pyro_hmvcrl.guide.guide import Guide
from pyro_hmvcrl.guide.transformers import TransformerGuide
from pyro_hmvcrl.inference.bound import UserELBO
from pyro_hmvcrl.inference.settings import Settings
from pyro_hmvcrl.inference.svi import fit, tensors_of
from pyro_hmvcrl.story.emissions import DECODER_PRIOR, engagement_logits
from pyro_hmvcrl.story.logs import Logs
from pyro_hmvcrl.story.mechanisms import line
from pyro_hmvcrl.story.model import HMVCRL
from pyro_hmvcrl.synthetic.design import Design
from pyro_hmvcrl.synthetic.simulation import Simulation, simulate

from recovery import HARD
from study import simulated_dataset, step_timer

OUT = Path(__file__).parent / "floor"
BATCHES = {"cpu": (128, 1_024), "cuda": (128, 1_024, 16_384)}
PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "attention")  # in an operation's name
ROUNDS, STEPS = 15, 5  # of each kind in turn
PARTICLES = 2


def loss_by_hand(guide: Guide, logs: Logs) -> Tensor:
    """``UserELBO(PARTICLES, False)`` without Pyro: minus the bound, nats a user, its gradient the path derivative."""
    model, posterior = guide.model, guide.coefficients
    sd = {name: log_sd.exp() for name, log_sd in posterior.log_sd.items()}
    c = {name: torch.distributions.Normal(loc, sd[name]).rsample() for name, loc in posterior.loc.items()}
    prior = guide.prior(c, logs)
    experts = guide.experts(logs, prior)
    users = product_of_experts(prior, experts, check=not prior.base.is_cuda)
    noise = users.antithetic(PARTICLES)
    location, scale = model.mechanisms(c, logs.exposure_covariates, logs.preference_covariates)
    z = list((location + scale * noise[..., :-1]).unbind(-1))
    for target, sources in model.graph.plan or []:
        for source in sources:
            z[target] = z[target] + c["edges"][source, target] * z[source]
    platform, preference = model.channels(torch.stack(z, -1))
    along, bend = c["delta"].unsqueeze(-1), c["delta_bend"].unsqueeze(-1)
    direct = line(logs.exposure_covariates, model.curved_exposure, along, bend)
    user = direct + model.readiness_scale(c) * noise[..., -1:]
    log_odds = engagement_logits(c, platform, preference, user)
    log_joint = standard_normal(noise) + shares(model.f_search(preference), logs.search)
    log_joint = log_joint + shares(model.f_exposure(platform), logs.exposure)
    log_joint = log_joint + (logs.engagement * log_odds - logs.exposure * softplus(log_odds)).sum(-1)
    bound = (log_joint - users.detach().log_prob(noise)).mean()
    for name, (kind, width, _) in model.priors.items():
        own = kind(0.0, width).log_prob(c[name]) - torch.distributions.Normal(
            posterior.loc[name], sd[name]
        ).log_prob(c[name])
        bound = bound + own.sum() / logs.n_users
    for decoder in (model.f_search, model.f_exposure):
        for name, width in DECODER_PRIOR.items():
            bound = bound - 0.5 * ((getattr(decoder, name) / width) ** 2).sum() / logs.n_users
    return -bound


def standard_normal(noise: Tensor) -> Tensor:
    """Log density ``(..., N)`` of noise ``(..., N, K)``."""
    return -0.5 * (noise**2 + np.log(2 * np.pi)).sum(-1)


def shares(logits: Tensor, counts: Tensor) -> Tensor:
    """Log probability ``(..., N)`` of events with these counts ``(N, C)`` by category."""
    return (logits.log_softmax(-1) * counts).sum(-1)


def bare_encoders(guide: Guide, logs: Logs) -> Tensor:
    """A number that hangs on all that the encoders give, and on nothing else."""
    experts = guide.experts(logs, None)  # type: ignore[arg-type]  # the Transformers do not look at the prior
    return torch.stack([expert.precision.mean() + expert.information.mean() for expert in experts]).sum()


def guide_of(sim: Simulation, device: torch.device) -> TransformerGuide:
    """A guide with a model, as the second stage meets it: all but the encoders stays as it is."""
    d = sim.world.design
    model = HMVCRL(
        d.platform_factors, d.preference_factors, d.exposure_covariates, d.preference_covariates, d.categories
    )
    model.graph.orient(torch.randn(model.n_factors, model.n_factors))
    guide = TransformerGuide(model).to(device)
    for part in (guide.model, guide.coefficients):
        part.requires_grad_(False)
    return guide


def measure(device: torch.device, batch: int) -> dict[str, float | str]:
    """One row of the table."""
    sim = simulate(Design.with_knobs(**(HARD | {"users": batch})), 0)
    guide, logs = guide_of(sim, device), Logs.of(*sim.observed).to(device)
    elbo = UserELBO(PARTICLES, False)
    kinds: dict[str, Callable[[], Tensor]] = {
        "step": lambda: elbo.differentiable_loss(guide.model, guide, logs),
        "by hand": lambda: loss_by_hand(guide, logs),
        "encoders": lambda: bare_encoders(guide, logs),
    }
    timers = {kind: step_timer(guide, loss) for kind, loss in kinds.items()}
    unrecorded = step_timer(guide, kinds["step"], record=False)
    if device.type == "cuda":
        timers["unrecorded"] = unrecorded
    with guide.knowing_longest(logs), pyro.validation_enabled(False):  # as in a fit
        for seconds in timers.values():
            seconds(STEPS)  # the first ones are slower
        with never_waiting(device):
            kinds["step"]().backward()
        taken = pd.DataFrame(
            [{kind: seconds(STEPS) for kind, seconds in timers.items()} for _ in range(ROUNDS)]
        )
        share = in_products(unrecorded, device)
    row: dict[str, float | str] = {"device": device.type, "threads": torch.get_num_threads(), "users": batch}
    row |= {f"{kind}, ms": round(1e3 * taken[kind].median(), 2) for kind in timers}
    row |= {"users per second": round(batch / taken["step"].median())}
    row |= {"in products of matrices": round(share, 2)}
    return row | dict(ratios(taken))


@contextmanager
def never_waiting(device: torch.device) -> Iterator[None]:
    """Within, what makes this process wait for a GPU is an error."""
    if device.type == "cpu":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def in_products(seconds: Callable[[int], float], device: torch.device) -> float:
    """Share of the device's time in a step that products of matrices take."""
    with torch.profiler.profile() as seen:
        seconds(STEPS)
    of_device = f"self_{'device' if device.type == 'cuda' else 'cpu'}_time_total"
    times = {e.key: getattr(e, of_device) for e in seen.key_averages()}
    return sum(t for name, t in times.items() if any(p in name for p in PRODUCTS)) / sum(times.values())


def whole_fit(device: str) -> dict[str, float | str]:
    """Of the default design, with default settings but for one restart."""
    sim = simulate(Design(), 0)
    dataset = simulated_dataset(sim, OUT / "logs", 0)
    start = time.perf_counter()
    found = fit(dataset, Settings(2, 3, restarts=1, device=device))
    seconds = time.perf_counter() - start
    logs = tensors_of(dataset, found.standardisation).to(device)
    estimate, _ = factor_posterior(*found.guide.posterior(logs))
    row: dict[str, float | str] = {"device": device, "seconds": round(seconds, 1)}
    for channel, block in (("platform", sim.world.platform), ("preference", sim.world.preference)):
        truth, factors = (z[found.held_out][:, block] for z in (sim.factors, estimate))
        row[f"{channel} MCC"] = round(mcc(truth, factors, n_bootstrap=0).value, 4)
    return row


def ratios(taken: pd.DataFrame) -> Iterator[tuple[str, float]]:
    """Of a step to each floor: the median over rounds, and quartiles."""
    for floor in ("by hand", "encoders"):
        ratio = taken["step"] / taken[floor]
        for name, share in (("", 0.5), (", lower quartile", 0.25), (", upper quartile", 0.75)):
            yield f"step / {floor}{name}", round(ratio.quantile(share), 3)


if __name__ == "__main__":
    torch.manual_seed(0)
    OUT.mkdir(exist_ok=True)
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    table = pd.DataFrame([measure(torch.device(d), batch) for d in devices for batch in BATCHES[d]])
    table.to_csv(OUT / "results.csv", index=False)
    fits = pd.DataFrame([whole_fit(d) for d in devices])
    fits.to_csv(OUT / "fits.csv", index=False)
    print(table.T.to_string(header=False), fits.to_string(index=False), sep="\n\n")
