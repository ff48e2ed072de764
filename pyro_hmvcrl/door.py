"""The front door: from logs to a run, and from a run to an answer, on disk or in memory.

Its names are handed on by the package itself: ``import pyro_hmvcrl as hm`` and ``hm.fit(...).effects(...)``.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd
import torch
from matplotlib.figure import Figure

from pyro_hmvcrl.data.dataset import Channel, Dataset
from pyro_hmvcrl.data.files import whole_folder
from pyro_hmvcrl.data.folder import read_dataset
from pyro_hmvcrl.inference.settings import Settings
from pyro_hmvcrl.inference.writing import OF_ONE_WRITER
from pyro_hmvcrl.queries.answer import LEVEL, effects_of_each
from pyro_hmvcrl.queries.frontier import frontier
from pyro_hmvcrl.queries.interventions import Policy, Shift, name_of, parse_policy
from pyro_hmvcrl.queries.kept import check_names, keep, kept
from pyro_hmvcrl.queries.mediation import OUTCOMES, Outcome
from pyro_hmvcrl.queries.profile import profile
from pyro_hmvcrl.queries.ranking import TOP, rank
from pyro_hmvcrl.queries.validation import keep_validation, validate
from pyro_hmvcrl.report.answer import Answer
from pyro_hmvcrl.report.page import write_report
from pyro_hmvcrl.report.reading import found_of
from pyro_hmvcrl.report.selection import selection
from pyro_hmvcrl.report.validation import Validation
from pyro_hmvcrl.run.files import RunError, check_new_folder
from pyro_hmvcrl.run.fitting import fit_dataset, is_run_of
from pyro_hmvcrl.run.judge import Truth
from pyro_hmvcrl.run.labels import labels_of, rename_factors
from pyro_hmvcrl.run.load import load_run as load_fitted
from pyro_hmvcrl.run.run import Run as FittedRun
from pyro_hmvcrl.run.selecting import Selection as FoundSelection
from pyro_hmvcrl.run.selecting import numbers_of, select_factors
from pyro_hmvcrl.story.logs import Logs

Change: TypeAlias = (
    str | Shift | Policy | Sequence[str | Shift]
)  #: of the platform; of several shifts all at once


@dataclass(frozen=True, repr=False, eq=False)
class Run(FittedRun):
    """A fitted run that can be asked.

    Attributes
    ----------
    folder
        Where its files are; of a run in memory a temporary folder, which goes when the run does.
    dataset
        What it was fitted to, where that is at hand.
    """

    folder: Path
    dataset: Dataset | None = None

    def effects(
        self,
        change: Change | Sequence[Change] | Mapping[str, Change],
        *,
        by: str | pd.Series | None = None,
        controls: pd.DataFrame | None = None,
        counterfactual: bool = False,
        outcomes: Mapping[str, Outcome] = OUTCOMES,
        level: float = LEVEL,
        extrapolate: bool = False,
        seed: int = 0,
        progress: bool | None = None,
    ) -> Answer:
        """What a change of the platform does; the run keeps the answer by the policy's name, and reports the last one.

        Parameters
        ----------
        change
            ``"autoplay=-0.2"`` in the column's own units, ``"autoplay=+1sd"`` in standard deviations,
            ``"autoplay=*0.8"`` to multiply, ``"autoplay:=0"`` to set it, ``"autoplay=-0.2 min 0"`` to hold it at an
            end; a factor for a column intervenes on it.  Or a function of the exposure covariates.
            ``"calmer: autoplay=-0.2, novelty=+1sd"`` is a policy with a name that does both.  A list has several
            policies, a mapping several by name; each is answered by itself.
        by
            Segments, each with its own effects: a covariate, what the indicators of a text begin with (``"plan"``), a
            column of the dataset's users, or a value of each user by user_id.
        controls
            Negative controls, numbers by user_id that the policy cannot have moved (engagement before it was set).
        counterfactual, outcomes, level, extrapolate, seed
            As in :func:`~pyro_hmvcrl.queries.answer.effects`.
        progress
            Show bars; by default where somebody looks.

        Raises
        ------
        InterventionError
            If a column or a factor is unknown, or the data do not support the change and `extrapolate` is off.
        RunError
            If the run keeps another policy's answer under the same name.
        """
        policies = _policies(change, counterfactual)
        kind = "counterfactual" if counterfactual else "interventional"
        check_names(self.folder, policies, kind)
        found = effects_of_each(
            self.folder,
            policies,
            counterfactual=counterfactual,
            outcomes=outcomes,
            level=level,
            by=self._segments(by),
            controls=controls,
            extrapolate=extrapolate,
            seed=seed,
            progress=_watched(progress),
        )
        keep(self.folder, policies, found)
        return Answer(found, self._found)

    @property
    def answers(self) -> Answer:
        """All answers that the run keeps, by the policies' names.

        Raises
        ------
        RunError
            If nothing was asked yet.
        """
        if not (answers := kept(self.folder)):
            raise RunError(f"{self.folder}: nothing was asked of it yet; ask: run.effects(...)")
        return Answer(answers, self._found)

    @property
    def value(self) -> dict[str, dict[str, Any]]:
        """Does what held-out users look for agree with engagement, and with each further outcome?

        By outcome, see :func:`~pyro_hmvcrl.evidence.value.agreement`; empty where the logs have no further outcome.
        """
        value: dict[str, dict[str, Any]] = self._found.get("value", {})
        return value

    @property
    def _found(self) -> dict[str, Any]:
        """What the run's report has, and the last back-test."""
        return found_of(self.folder)

    def _segments(self, by: str | pd.Series | None) -> str | pd.Series | None:
        """A column of the users' table, where that is at hand and has more than the run."""
        if isinstance(by, str) and self.dataset is not None and by in self.dataset.users:
            return self.dataset.users.set_index("user_id")[by]
        return by

    def profile(
        self, reference: Mapping[str, float] | None = None, *, seed: int = 0, progress: bool | None = None
    ) -> pd.DataFrame:
        """A row a user: what the user looks for against what is shown, as it is and were the platform the same for all.

        See :func:`~pyro_hmvcrl.queries.profile.profile`.
        """
        return profile(self.folder, reference, seed=seed, progress=_watched(progress))

    def rank(
        self,
        reference: Mapping[str, float] | None = None,
        *,
        as_it_is: bool = False,
        items: pd.DataFrame | None = None,
        top: int = TOP,
        seed: int = 0,
        progress: bool | None = None,
    ) -> pd.DataFrame:
        """What each user looks for, were the platform the same for all or `as_it_is`: a row a user and rank.

        See :func:`~pyro_hmvcrl.queries.ranking.rank`.
        """
        watched = _watched(progress)
        return rank(
            self.folder, reference, as_it_is=as_it_is, items=items, top=top, seed=seed, progress=watched
        )

    def validate(
        self,
        after: Dataset | str | Path,
        *,
        counterfactual: bool = False,
        level: float = LEVEL,
        seed: int = 0,
        progress: bool | None = None,
    ) -> Validation:
        """The back-test: what the run says of logs after a change, against what came; the run keeps and reports it.

        See :func:`~pyro_hmvcrl.queries.validation.validate`.
        """
        found = validate(
            self.folder,
            after,
            counterfactual=counterfactual,
            level=level,
            seed=seed,
            progress=_watched(progress),
        )
        keep_validation(self.folder, found)
        return Validation(found)

    def frontier(
        self,
        box: Mapping[str, tuple[float, float]] | None = None,
        *,
        level: float = LEVEL,
        seed: int = 0,
        progress: bool | None = None,
    ) -> pd.DataFrame:
        """The policies that are best in alignment at each engagement, over shifts that the data support.

        See :func:`~pyro_hmvcrl.queries.frontier.frontier`.
        """
        return frontier(self.folder, box, level=level, seed=seed, progress=_watched(progress))

    def report(self) -> Path:
        """Write the run's report with the last answer; where it is."""
        return write_report(self.folder)

    @property
    def labels(self) -> dict[str, str]:
        """The factors in words, of the categories that they raise and lower; see :meth:`rename`."""
        return labels_of(self.folder)

    def rename(self, **names: str) -> None:
        """Give factors names of one's own: ``run.rename(preference_1="westerns")``.

        Raises
        ------
        RunError
            If there is no such factor, or a name cannot be one.
        """
        rename_factors(self.folder, names)

    def save(self, folder: str | Path) -> Run:
        """Write the run's files into a new folder, whole or not at all; the run of it.

        Raises
        ------
        RunError
            If the folder exists, or cannot be made.
        """
        folder = Path(folder)
        check_new_folder(folder)
        with whole_folder(folder) as copy:
            shutil.copytree(
                self.folder, copy, ignore=shutil.ignore_patterns(OF_ONE_WRITER), dirs_exist_ok=True
            )
        return replace(self, folder=folder)

    def logs(self, dataset: Dataset | None = None) -> Logs:
        """A dataset as this run's model reads it, all users at once; by default the run's own.

        Raises
        ------
        RunError
            If none is given, and the run was read from a folder.
        """
        if dataset is None and self.dataset is None:
            raise RunError(
                f"{self.folder}: a run folder has no logs in it; give them: run.logs(read_dataset(...))"
            )
        return super().logs(dataset or self.dataset)  # type: ignore[arg-type]

    def noise(self, logs: Logs | None = None, seed: int = 0) -> torch.Tensor:
        """The users' noise as their logs speak of it ``(N, K + 1)``: a draw; by default of the run's own."""
        return super().noise(self.logs() if logs is None else logs, seed)


class Selection(FoundSelection):
    """Models with other numbers of factors, and the recommended one."""

    def plot(self) -> Figure:
        """Held-out bound against the number of factors."""
        return selection(self.to_dict())


def select(
    logs: Dataset | str | Path,
    *,
    platform_factors: int | None = None,
    preference_factors: int | None = None,
    progress: bool | None = None,
    **settings: Any,
) -> Selection:
    """How many factors: cheap fits with other numbers of them, and the recommended one.

    ``found.table`` has a row a model, ``found.sentences`` say why, and ``found.plot()`` shows it.

    Parameters
    ----------
    logs
        A dataset, or its folder.
    platform_factors, preference_factors
        What is known already; the other is chosen.
    progress
        Show a bar; by default where somebody looks.
    **settings
        As in :func:`fit`.

    Raises
    ------
    RunError
        If the users are too few, or both numbers are given.
    DatasetError
        If the logs are bad.
    """
    numbers, free = numbers_of(platform_factors, preference_factors)
    asked = Settings(**(settings | numbers))
    dataset = logs if isinstance(logs, Dataset) else read_dataset(logs, periods=asked.periods)
    return Selection(**vars(select_factors(dataset, asked, free, progress=_watched(progress))))


def fit(
    logs: Dataset | str | Path,
    *,
    platform_factors: int | None = None,
    preference_factors: int | None = None,
    out: str | Path | None = None,
    progress: bool | None = None,
    **settings: Any,
) -> Run:
    """Fit logs.

    Parameters
    ----------
    logs
        A dataset, or its folder.
    platform_factors, preference_factors
        How many there are of each channel; a number that is not given is chosen first, as by :func:`select`, and the
        run's report says why.
    out
        Run folder; without it the run lives in memory, and :meth:`Run.save` keeps it.  A fit that was killed goes on
        when called again with the same, and one that is there already is read.
    progress
        Show bars and remarks; by default where somebody looks.
    **settings
        Of :class:`~pyro_hmvcrl.inference.settings.Settings`: `restarts`, `steps`, `seed` and so on.

    Raises
    ------
    RunError
        If `out` exists and holds something else.
    DatasetError
        If the logs are bad.
    """
    numbers, free = numbers_of(platform_factors, preference_factors)
    asked = Settings(**(settings | numbers))
    dataset = logs if isinstance(logs, Dataset) else read_dataset(logs, periods=asked.periods)
    truth = None if isinstance(logs, Dataset) else Truth.beside(logs, dataset)
    if out is not None:
        return _fitted(dataset, Path(out), asked, free, truth, progress)
    place = Path(tempfile.mkdtemp(prefix="pyro-hmvcrl-"))
    try:
        run = _fitted(dataset, place / "run", asked, free, truth, progress)
    except BaseException:
        shutil.rmtree(place)
        raise
    weakref.finalize(run, shutil.rmtree, place, ignore_errors=True)
    return run


def _fitted(
    dataset: Dataset,
    folder: Path,
    settings: Settings,
    free: Sequence[Channel],
    truth: Truth | None,
    progress: bool | None,
) -> Run:
    """The run of this fit, which may be there already."""
    if is_run_of(folder, dataset, settings, free):
        fitted = load_fitted(folder)
    else:
        watched = _watched(progress)
        fitted = fit_dataset(dataset, folder, settings, truth, watched, label=dataset.name, free=free)
    return Run(**vars(fitted), folder=folder, dataset=dataset)


def load_run(folder: str | Path) -> Run:
    """A run from its folder.

    Raises
    ------
    RunError
        If the folder is not a run folder, or its files are damaged or of different runs.
    """
    return Run(**vars(load_fitted(folder)), folder=Path(folder))


def _policies(
    change: Change | Sequence[Change] | Mapping[str, Change], counterfactual: bool
) -> dict[str, Policy | list[Shift]]:
    """Policies by name, as the queries take them."""
    if isinstance(change, Mapping):
        found = {name: _policy(of)[1] for name, of in change.items()}
    else:
        several = isinstance(change, Sequence) and not isinstance(change, str)
        named = [_policy(of) for of in (change if several else [change])]  # type: ignore[arg-type, union-attr]
        found = dict(named)
        if len(found) < len(named):
            raise ValueError("two policies have one name; give names: a mapping of names to policies")
        if counterfactual:
            found = {f"{name} (counterfactual)": of for name, of in found.items()}
    if not found:
        raise ValueError(
            "no policy is given: give a shift, a list of policies, or a mapping of names to them"
        )
    return found


def _policy(change: Change) -> tuple[str, Policy | list[Shift]]:
    """A policy and its name, by default what it does."""
    if isinstance(change, str):
        return parse_policy(change)
    if isinstance(change, Shift):
        return name_of([change]), [change]
    if isinstance(change, Sequence):
        parts = [
            shift
            for part in change
            for shift in ([part] if isinstance(part, Shift) else parse_policy(part)[1])
        ]
        return name_of(parts), parts
    return getattr(change, "__name__", "policy"), change


def _watched(progress: bool | None) -> bool:
    """Whether bars are shown: as is asked, or else in a terminal and in a notebook."""
    return (sys.stderr.isatty() or _in_a_notebook()) if progress is None else progress


def _in_a_notebook() -> bool:
    """Whether this process is a notebook's: others may have loaded its libraries, too."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")
