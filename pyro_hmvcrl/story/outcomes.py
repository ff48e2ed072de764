"""Further outcomes: what users say of what they are shown, beside whether they engage with it.

Given a user's factors and readiness, an outcome such as `liked` is an emission like that of engagement, with
coefficients of its own::

    liked in t ~ Bernoulli(sigmoid(b[cat] + a[cat].preference + alpha.platform + delta(c^P) + along readiness
                                   + familiarity.H[t]))                        of every item that is shown

Nothing in the story of :mod:`~pyro_hmvcrl.story.model` follows from it, so that it can be told after a fit, which it
leaves as it is.  Sites are named by the outcome: ``liked``, and its coefficients ``liked.a``, ``liked.b`` and so on.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyro
import pyro.distributions as dist
from torch import Tensor

from pyro_hmvcrl.story.emissions import EngagementEvents, EngagementWindow, engagement_logits
from pyro_hmvcrl.story.history import pasts, term
from pyro_hmvcrl.story.logs import Logs
from pyro_hmvcrl.story.mechanisms import line
from pyro_hmvcrl.story.model import HMVCRL
from pyro_hmvcrl.story.programs import Program, at

LIKE_ENGAGEMENT = ("a", "b", "alpha", "delta", "delta_bend", "familiarity")


class OutcomeStory:
    """One further outcome of what is shown, given who the users are.

    Parameters
    ----------
    name
        Of the outcome.
    model
        Whose factors the users have.  Its priors of engagement's coefficients are those of the outcome's, too.
    """

    def __init__(self, name: str, model: HMVCRL) -> None:
        self.name, self.model = name, model
        self.priors = {part: model.priors[part] for part in LIKE_ENGAGEMENT if part in model.priors}
        self.priors["along"] = (dist.Normal, 1.0, (1,))

    def site(self, part: str) -> str:
        """What a coefficient is called in the program."""
        return f"{self.name}.{part}"

    def __call__(self, factors: Tensor, readiness: Tensor, logs: Logs) -> Tensor:
        """Draw the outcome of what these users are shown, events by category like the logs' exposure.

        Shapes: factors ``(..., N, K)``, readiness ``(..., N)``.  Of several periods each has the past of the logs.
        """
        coefficients = self.coefficients()
        with pyro.plate("users", len(logs.index)):
            events = self.events(coefficients, factors, readiness, logs)
            said: Tensor = pyro.sample(self.name, events)
        return said

    def coefficients(self) -> dict[str, Tensor]:
        """Drawn once, for all users."""
        model = self.model
        return {
            part: pyro.sample(
                self.site(part), prior(model.zero, scale * model.one).expand(shape).to_event(len(shape))
            )
            for part, (prior, scale, shape) in self.priors.items()
        }

    def events(
        self, coefficients: dict[str, Tensor], factors: Tensor, readiness: Tensor, logs: Logs
    ) -> EngagementEvents | EngagementWindow:
        """The law of the outcome among what is shown."""
        logits = self.logits(coefficients, factors, readiness, logs.exposure_covariates)
        if logs.n_periods == 1:
            return EngagementEvents(logits, logs.exposure)
        past = pasts(logs.search, logs.exposure, logs.engagement).features(self.model.usual_engagement)
        return EngagementWindow(logits, self.of_past(coefficients, past), logs.exposure, logs.shown_cells)

    def logits(
        self, coefficients: dict[str, Tensor], factors: Tensor, readiness: Tensor, c_p: Tensor
    ) -> Tensor:
        """Log odds of the outcome by category ``(..., N, C)``, whatever came before."""
        direct, bend = (coefficients[part].unsqueeze(-1) for part in ("delta", "delta_bend"))
        user = line(c_p, self.model.curved_exposure, direct, bend)
        user = user + (coefficients["along"] * readiness).unsqueeze(-1)
        return engagement_logits(coefficients, *self.model.channels(factors), user)

    def of_past(self, coefficients: dict[str, Tensor], history: Tensor) -> Tensor:
        """What features ``(..., C, F)`` of the past add to the log odds, ``(..., C)``."""
        return term("familiarity", history, coefficients["familiarity"])


def at_with_outcomes(model: HMVCRL, values: Mapping[str, Tensor]) -> Program:
    """The model at these values, as :func:`~pyro_hmvcrl.story.programs.at`; what is not its own are sites beside it."""
    known = model.priors.keys() | dict(model.named_parameters()).keys()
    story = at(model, {name: value for name, value in values.items() if name in known})
    further = {name: value for name, value in values.items() if name not in known}
    if not further:
        return story

    def with_outcomes(logs: Logs) -> Tensor:
        for name, value in further.items():
            pyro.deterministic(name, value, event_dim=value.dim())
        return story(logs)

    return with_outcomes
