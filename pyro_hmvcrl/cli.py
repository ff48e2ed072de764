"""The commands: ``pyro-hmvcrl``, also ``python -m pyro_hmvcrl``."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from pyro_hmvcrl import __version__
from pyro_hmvcrl.data.files import clear_away, one_line
from pyro_hmvcrl.inference.settings import Settings
from pyro_hmvcrl.inference.writing import alone_in, printable
from pyro_hmvcrl.synthetic.design import SUBSTITUTION, Design

# What takes seconds to import is imported where it is used: help is there at once, and an interrupt is one line.

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
RunFolder = Annotated[Path, typer.Argument(help="A folder that fit has written.")]
DatasetFolder = Annotated[
    Path, typer.Argument(help="A dataset folder: dataset.json, users, search and feed events.")
]
KuaisarSource = Annotated[Path, typer.Argument(help="KuaiSAR's zip, or the folder of its files.")]
CategoryLevel = Annotated[str, typer.Option(help="Of the categories: first, second, third or fourth.")]
CovariatesShare = Annotated[
    float,
    typer.Option(
        help="Share of the window, its first part, in which covariates are measured; events are those of the rest. "
        "0: both of the whole window."
    ),
]
PlatformFactors = Annotated[int | None, typer.Option(help="Number of platform factors, or it is selected.")]
PreferenceFactors = Annotated[int | None, typer.Option(help="Number of preference factors; likewise.")]
Restarts = Annotated[int, typer.Option(help="Random starts, of which the one with the best bound is kept.")]
Steps = Annotated[int, typer.Option(help="Steps of a restart.")]
EncoderSteps = Annotated[int, typer.Option(help="Steps of the encoders.")]
PeriodNumber = Annotated[
    int | None,
    typer.Option(
        help="Equal parts of the window, 1 for none; by default as its length has it, days if they are few."
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
DEFAULTS = Settings(platform_factors=1, preference_factors=1)
FORMATS = ("parquet", "csv", "kuaisar")


def _say_version(asked: bool) -> None:
    if asked:
        _say(f"pyro_hmvcrl {__version__}")
        raise typer.Exit


@app.callback()
def _whole(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_say_version, is_eager=True, help="Say the version, and end."),
    ] = False,
) -> None:
    """Separate what the platform exposed from what the user wanted, from search and recommendation logs."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the data and the run.")] = Path("demo-run"),
) -> None:
    """Simulate logs with known truth, fit, ask for a policy's effects, report: a few minutes on two cores."""
    with _plain_errors():
        from pyro_hmvcrl.queries.answer import effects, write_effects
        from pyro_hmvcrl.queries.interventions import add
        from pyro_hmvcrl.report.page import write_report
        from pyro_hmvcrl.report.terminal import effects_text, notes_of, summary_text
        from pyro_hmvcrl.run.fitting import fit_folder
        from pyro_hmvcrl.synthetic.folder import write_simulation
        from pyro_hmvcrl.synthetic.simulation import simulate

        data, run = out / "simulated-logs", out / "run"
        if not data.exists():  # a demo that was interrupted goes on
            world = simulate(Design.with_knobs(**SUBSTITUTION), seed=0)
            write_simulation(world, data, seed=0, progress=True)
        if not run.exists():
            fit_folder(data, run, Settings(platform_factors=2, preference_factors=3), progress=True)
        answer = effects(run, [add("exposure_1", 1.0)], progress=True)
        with alone_in(run):
            write_effects(answer, run / "effects.json")
            page = write_report(run)
        _say(summary_text(run))
        _say(f"\n{effects_text(answer, run)}")
        _print_notes(notes_of(run))
        _say(f"\nLook at it: {page}")


@app.command("simulate")
def simulate_command(
    out: Annotated[Path, typer.Argument(help="Dataset folder to write; truth.npz and truth.json go in it.")],
    users: Annotated[int, typer.Option(help="Number of users.")] = Design.users,
    seed: Annotated[int, typer.Option(help="Seed of the world, its users and their logs.")] = 0,
    knob: Annotated[
        list[str] | None, typer.Option(help="Any knob of synthetic.Design as NAME=JSON, e.g. scale=0.")
    ] = None,
    format: Annotated[
        str, typer.Option(help="parquet, csv, or kuaisar: a generated copy of KuaiSAR's files.")
    ] = "parquet",
    events: Annotated[float, typer.Option(help="Of kuaisar: events a user, as a share of KuaiSAR's.")] = 1.0,
) -> None:
    """Write a dataset folder with known truth, or (--format kuaisar) files like KuaiSAR's with known truth."""
    with _plain_errors():
        from pyro_hmvcrl.data.tables import DatasetError
        from pyro_hmvcrl.kuaisar.copy.folder import write_kuaisar_copy
        from pyro_hmvcrl.run.files import check_new_folder
        from pyro_hmvcrl.synthetic.folder import write_simulation
        from pyro_hmvcrl.synthetic.simulation import simulate

        if format not in FORMATS:
            raise DatasetError(
                f"{out}: format {format!r} is none of {', '.join(FORMATS)}; choose one of them"
            )
        check_new_folder(out)
        if format == "kuaisar":
            write_kuaisar_copy(out, users, seed, events=events, progress=True)
            _say(f"{out}: a generated copy of KuaiSAR with {users:,} users")
            return
        knobs = _once([text.partition("=") for text in knob or []], "--knob")
        design = Design.with_knobs(**({"users": users} | {name: _as_json(value) for name, _, value in knobs}))
        world = simulate(design, seed)
        write_simulation(world, out, seed, format=format, progress=True)
        searched, shown = int(world.search.sum()), int(world.exposure.sum())
        _say(f"{out}: {design.users:,} users, {searched:,} search and {shown:,} recommendation events")


@app.command("import")
def import_command(
    users: Annotated[Path, typer.Argument(help="A row a user: an id, and the covariates.")],
    searches: Annotated[
        Path, typer.Argument(help="A row a search: user, category, and time if there is one.")
    ],
    recommendations: Annotated[
        Path,
        typer.Argument(help="A row an item shown: user, category, time, and whether it was engaged with."),
    ],
    out: Annotated[Path, typer.Argument(help="Dataset folder to write, with import.json in it.")],
    exposure: Annotated[
        list[str], typer.Option(help="Columns of USERS that tell what the platform did; commas between them.")
    ],
    preference: Annotated[
        list[str], typer.Option(help="Columns of USERS that tell who the user is; commas between them.")
    ],
    map: Annotated[
        list[str] | None, typer.Option(help="OWN=NAME: what a column is called here, e.g. genre=category.")
    ] = None,
    top_categories: Annotated[
        int | None, typer.Option(help="All but this many of the most frequent categories become one.")
    ] = None,
) -> None:
    """Make a dataset folder of your own files, Parquet or CSV, and say all that was done to them."""
    with _plain_errors():
        from pyro_hmvcrl.data.importing import import_files
        from pyro_hmvcrl.data.tables import DatasetError
        from pyro_hmvcrl.run.files import check_new_folder

        check_new_folder(out)
        pairs = _once([text.partition("=") for text in map or []], "--map")
        if unclear := ["".join(pair) for pair in pairs if not (pair[0] and pair[2])]:
            raise DatasetError(f"--map {unclear[0]}: write OWN=NAME, e.g. genre=category")
        account = import_files(
            users,
            searches,
            recommendations,
            out,
            exposure=_parted(exposure),
            preference=_parted(preference),
            columns={own: name for own, _, name in pairs},
            top_categories=top_categories,
        )
        for sentence in account.said:
            _say(f"- {sentence}")
        kept = [f"{of['kept']:,} {label}" for label, of in account.tables.items()]
        _say(f"{out}: {', '.join(kept)}")


@app.command("select")
def select_command(
    dataset: DatasetFolder,
    out: Annotated[Path | None, typer.Option(help="Folder to write: table, figure and all figures.")] = None,
    platform_factors: PlatformFactors = None,
    preference_factors: PreferenceFactors = None,
    periods: PeriodNumber = DEFAULTS.periods,
    device: Device = DEFAULTS.device,
    seed: Seed = DEFAULTS.seed,
) -> None:
    """Choose how many factors, by cheap fits with other numbers of them: about the time of one fit."""
    with _plain_errors():
        from pyro_hmvcrl.data.folder import read_dataset
        from pyro_hmvcrl.report.selection import selection_text, write_selection
        from pyro_hmvcrl.run.files import check_new_folder
        from pyro_hmvcrl.run.selecting import numbers_of, select_factors

        if out is not None:
            check_new_folder(out)
        numbers, free = numbers_of(platform_factors, preference_factors)
        settings = Settings(**numbers, periods=periods, device=device, seed=seed)
        found = select_factors(
            read_dataset(dataset, periods=periods), settings, free, progress=True
        ).to_dict()
        _say(selection_text(found))
        if out is not None:
            write_selection(found, out)
            _say(f"{out}: table and figure")


@app.command()
def fit(
    dataset: DatasetFolder,
    out: Annotated[
        Path | None, typer.Option(help="Run folder to write; by default DATASET-run, beside the dataset.")
    ] = None,
    platform_factors: PlatformFactors = None,
    preference_factors: PreferenceFactors = None,
    restarts: Restarts = DEFAULTS.restarts,
    steps: Steps = DEFAULTS.steps,
    batch_size: Annotated[int, typer.Option(help="Users a step of a restart.")] = DEFAULTS.batch_size,
    encoder_steps: EncoderSteps = DEFAULTS.encoder_steps,
    periods: PeriodNumber = DEFAULTS.periods,
    device: Device = DEFAULTS.device,
    seed: Seed = DEFAULTS.seed,
) -> None:
    """Fit model and guide to a dataset folder; a fit that was killed goes on when called again.

    A number of factors that is not given is selected first, as by the command select.

    By several processes: torchrun --nproc-per-node 2 -m pyro_hmvcrl fit ...
    """
    with _plain_errors():
        from pyro_hmvcrl.inference.processes import first, together
        from pyro_hmvcrl.report.page import write_report
        from pyro_hmvcrl.report.terminal import notes_of, summary_text
        from pyro_hmvcrl.run.files import named_after
        from pyro_hmvcrl.run.fitting import checkpoints_of, fit_folder, is_run_of
        from pyro_hmvcrl.run.selecting import numbers_of

        numbers, free = numbers_of(platform_factors, preference_factors)
        settings = Settings(
            **numbers,
            restarts=restarts,
            steps=steps,
            batch_size=batch_size,
            encoder_steps=encoder_steps,
            periods=periods,
            device=device,
            seed=seed,
        )
        out = out or named_after(dataset, "-run")
        with together(device):
            if not _without_report(out) or not is_run_of(out, dataset, settings, free):
                fit_folder(dataset, out, settings, progress=True, free=free)
            if not first():
                return
        clear_away(checkpoints_of(out))
        page = write_report(out)
        _say(summary_text(out))
        _print_notes(notes_of(out))
        _say(f"\nReport: {page}")


@app.command()
def encode(
    run: RunFolder,
    dataset: DatasetFolder,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File to write, .parquet or .csv; by default DATASET-factors.parquet, in the current folder."
        ),
    ] = None,
) -> None:
    """Write the factors of new logs under a fitted run."""
    with _plain_errors():
        from pyro_hmvcrl.data.folder import read_dataset
        from pyro_hmvcrl.queries.overlap import beside_fit
        from pyro_hmvcrl.report.terminal import notes_of
        from pyro_hmvcrl.run.files import RunError, named_after
        from pyro_hmvcrl.run.load import load_run
        from pyro_hmvcrl.run.tables import check_formulas, check_table, write_table

        if out is None:
            out = Path(named_after(dataset, "-factors.parquet").name)
            if out.exists():
                raise RunError(f"{out}: exists already; remove it, or say with --out where to write")
        check_table(out)
        fitted = load_run(run)
        logs = read_dataset(dataset, fitted.categories, fitted.periods)
        if out.suffix == ".csv":
            check_formulas(dataset, logs.users["user_id"].astype("str"))
        factors = fitted.encode(logs)
        beside = beside_fit(run, logs.users)
        factors["outside"], notes = beside.outside, [*beside.sentences, *logs.remarks, *notes_of(run)]
        write_table(factors, out)
        _say(f"{out}: factors of {len(factors):,} users")
        _print_notes(notes)


@app.command("effects")
def effects_command(
    run: RunFolder,
    shift: Annotated[
        list[str] | None,
        typer.Option(
            help="COLUMN=+1.0 in the column's own units, COLUMN=+1sd in standard deviations, COLUMN=*0.8 to multiply, "
            "COLUMN:=3 to set it; after it, min 0 or max 1 to hold it at an end. A factor's or channel's name for "
            "COLUMN intervenes on the factors. Several shifts are one policy."
        ),
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(help='"NAME: SHIFT, SHIFT": a policy with a name; several are told side by side.'),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(help="Segments: a covariate, or what the indicators of a text begin with."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="JSON file to write, beside those that the run keeps.")
    ] = None,
    counterfactual: Annotated[
        bool, typer.Option(help="Effects on these very users, with the noise of their own logs.")
    ] = False,
    level: Annotated[float, typer.Option(help="Level of the intervals.")] = 0.9,
    extrapolate: Annotated[bool, typer.Option(help="Answer even where no data support the shift.")] = False,
    seed: Seed = 0,
) -> None:
    """Ask what a change of the platform does: effects and mediation with intervals and checks."""
    with _plain_errors():
        from pyro_hmvcrl.queries.answer import effects_of_each
        from pyro_hmvcrl.queries.interventions import parse_policies
        from pyro_hmvcrl.queries.kept import check_names, keep
        from pyro_hmvcrl.report.page import write_report
        from pyro_hmvcrl.report.reading import read_run
        from pyro_hmvcrl.report.terminal import answers_text, notes_of
        from pyro_hmvcrl.run.files import check_out

        policies, own = parse_policies(shift or [], policy or [], counterfactual), run / "effects.json"
        check_out(out or own, own)
        read_run(run, answered=False)  # a run that cannot be reported on is not asked either
        check_names(run, policies, "counterfactual" if counterfactual else "interventional")
        answers = effects_of_each(
            run,
            policies,
            counterfactual=counterfactual,
            level=level,
            by=by,
            extrapolate=extrapolate,
            seed=seed,
            progress=True,
        )
        with alone_in(run):
            keep(run, policies, answers, out)
            page = write_report(run)
        _say(answers_text(answers, run))
        _print_notes(notes_of(run))
        _say(f"\n{out or own}: all figures.  Report: {page}")


@app.command("profile")
def profile_command(
    run: RunFolder,
    out: Annotated[Path, typer.Option(help="File to write, .parquet or .csv.")],
    seed: Seed = 0,
) -> None:
    """Write a row a user: what the user looks for against what is shown, as it is and were it the same for all."""
    with _plain_errors():
        from pyro_hmvcrl.queries.profile import profile, profile_sentences
        from pyro_hmvcrl.report.terminal import notes_of
        from pyro_hmvcrl.run.tables import check_table, write_users

        check_table(out)
        table = profile(run, seed=seed, progress=True)
        write_users(table, out, run)
        for sentence in profile_sentences(table):
            _say(f"- {sentence}")
        _say(f"{out}: profiles of {len(table):,} users")
        _print_notes(notes_of(run))


@app.command("rank")
def rank_command(
    run: RunFolder,
    out: Annotated[Path, typer.Option(help="File to write, .parquet or .csv.")],
    top: Annotated[int, typer.Option(help="Categories a user.")] = 10,
    seed: Seed = 0,
) -> None:
    """Write what each user looks for, were the platform the same for all: a row a user and rank."""
    with _plain_errors():
        from pyro_hmvcrl.queries.ranking import rank
        from pyro_hmvcrl.report.terminal import notes_of
        from pyro_hmvcrl.run.tables import check_table, write_users

        check_table(out)
        table = rank(run, top=top, seed=seed, progress=True)
        write_users(table, out, run)
        _say(f"{out}: {table['rank'].max()} categories of each of {table['user_id'].nunique():,} users")
        _print_notes(notes_of(run))


@app.command("validate")
def validate_command(
    run: RunFolder,
    after: Annotated[Path, typer.Argument(help="A dataset folder of logs after a change of the platform.")],
    out: Annotated[
        Path | None, typer.Option(help="JSON file to write, beside the one that the run keeps.")
    ] = None,
    counterfactual: Annotated[
        bool, typer.Option(help="With the noise of their own logs, for users whom the run knows.")
    ] = False,
    level: Annotated[float, typer.Option(help="Level of the intervals.")] = 0.9,
    seed: Seed = 0,
) -> None:
    """The back-test: what the run says of logs after a change, against what came, and against no change."""
    with _plain_errors():
        from pyro_hmvcrl.queries.validation import FILE, keep_validation, validate
        from pyro_hmvcrl.report.page import write_report
        from pyro_hmvcrl.report.terminal import notes_of
        from pyro_hmvcrl.report.validation import validation_text
        from pyro_hmvcrl.run.files import check_out

        check_out(out or run / FILE, run / FILE)
        found = validate(run, after, counterfactual=counterfactual, level=level, seed=seed, progress=True)
        keep_validation(run, found, out)
        page = write_report(run)
        _say(validation_text(found))
        _print_notes([*found["remarks"], *notes_of(run)])
        _say(f"\n{out or run / FILE}: all figures.  Report: {page}")


@app.command("frontier")
def frontier_command(
    run: RunFolder,
    out: Annotated[Path, typer.Option(help="File to write, .parquet or .csv: all shifts that were tried.")],
    between: Annotated[
        list[str] | None,
        typer.Option(
            help="COLUMN=LOW..HIGH: shifts to try, in the column's own units; by default a standard deviation down and "
            "up of each."
        ),
    ] = None,
    points: Annotated[int, typer.Option(help="Number of shifts that are tried.")] = 128,
    level: Annotated[float, typer.Option(help="Level of the intervals.")] = 0.9,
    seed: Seed = 0,
) -> None:
    """Find the policies that are best in alignment at each engagement, among those that the data support."""
    with _plain_errors():
        from pyro_hmvcrl.queries.frontier import frontier, parse_between
        from pyro_hmvcrl.report.terminal import frontier_text, notes_of
        from pyro_hmvcrl.run.tables import check_table, write_table

        box = parse_between(between or [])
        check_table(out)
        table = frontier(run, box, points=points, level=level, seed=seed, progress=True)
        write_table(table, out)
        _say(frontier_text(table, level))
        _print_notes(notes_of(run))
        _say(f"{out}: {len(table):,} shifts that the data support")


@app.command("download-kuaisar")
def download_kuaisar(
    out: Annotated[Path, typer.Argument(help="Folder for the zip.")],
    full: Annotated[bool, typer.Option(help="The full release, not the small one.")] = False,
) -> None:
    """Download KuaiSAR's zip; a download that was interrupted goes on."""
    with _plain_errors():
        from pyro_hmvcrl.kuaisar.download import FULL, SMALL, download

        archive = FULL if full else SMALL
        _say(archive.terms)
        path = download(archive, out, progress=True)
        _say(f"{path}: complete, checksum right")


@app.command("import-kuaisar")
def import_kuaisar(
    source: KuaisarSource,
    out: Annotated[Path, typer.Argument(help="Dataset folder to write, with import.json in it.")],
    level: CategoryLevel = "first",
    since: Annotated[str | None, typer.Option(help="From this Beijing time on, e.g. 2023-05-22.")] = None,
    until: Annotated[str | None, typer.Option(help="Before this Beijing time.")] = None,
    min_events: Annotated[int, typer.Option(help="Leave out users with fewer events.")] = 10,
    covariates_share: CovariatesShare = 0.25,
) -> None:
    """Make a dataset folder of KuaiSAR's files, and say what was kept, what was dropped, and why."""
    with _plain_errors():
        from pyro_hmvcrl.kuaisar.clock import moment
        from pyro_hmvcrl.kuaisar.folder import write_kuaisar
        from pyro_hmvcrl.kuaisar.reading import read_kuaisar
        from pyro_hmvcrl.kuaisar.telling import files_text, logs_text
        from pyro_hmvcrl.run.files import check_new_folder

        check_new_folder(out)
        window = moment(since), moment(until)
        logs = read_kuaisar(source, level, progress=True).between(*window)
        account = write_kuaisar(logs, out, min_events=min_events, covariates_share=covariates_share)
        _say(files_text(account))
        _print_covariates(account)
        _say(logs_text(account, out))


@app.command()
def kuaisar(
    source: KuaisarSource,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the datasets, the fits and the report; by default SOURCE-study, in the current folder."
        ),
    ] = None,
    level: CategoryLevel = "first",
    platform_factors: Annotated[int, typer.Option(help="Number of platform factors.")] = 2,
    preference_factors: Annotated[int, typer.Option(help="Number of preference factors.")] = 3,
    shift: Annotated[str, typer.Option(help="The policy shift, as in effects.")] = "popularity=+1sd",
    covariates_share: CovariatesShare = 0.25,
    restarts: Restarts = DEFAULTS.restarts,
    steps: Steps = DEFAULTS.steps,
    encoder_steps: EncoderSteps = DEFAULTS.encoder_steps,
    device: Device = DEFAULTS.device,
    seed: Seed = DEFAULTS.seed,
) -> None:
    """Import, fit, evaluate, report: published against obtained figures.  A study that was killed goes on."""
    with _plain_errors():
        from pyro_hmvcrl.data.files import read_json
        from pyro_hmvcrl.kuaisar.published import study
        from pyro_hmvcrl.report.page import write_report
        from pyro_hmvcrl.report.terminal import published_text
        from pyro_hmvcrl.run.files import named_after

        settings = Settings(
            platform_factors=platform_factors,
            preference_factors=preference_factors,
            restarts=restarts,
            steps=steps,
            encoder_steps=encoder_steps,
            device=device,
            seed=seed,
        )
        out = out or Path(f"{named_after(source, '').name.removesuffix('.zip')}-study")
        found = study(source, out, settings, level, shift, progress=True, covariates_share=covariates_share)
        page = write_report(out / "run")
        _print_covariates(read_json(out / "earlier" / "import.json"))
        _say(published_text(found))
        _say(f"\nReport: {page}")


@app.command()
def report(run: RunFolder) -> None:
    """Draw a run's figures and write its report.html anew."""
    with _plain_errors():
        from pyro_hmvcrl.report.page import write_report

        page = write_report(run)
        _say(f"Report: {page}")


@app.command()
def rename(
    run: RunFolder,
    names: Annotated[list[str], typer.Argument(help='FACTOR=NAME, e.g. preference_1="westerns".')],
) -> None:
    """Give factors names of your own, and write the report anew."""
    with _plain_errors():
        from pyro_hmvcrl.report.page import write_report
        from pyro_hmvcrl.run.labels import rename_factors

        pairs = _once([text.partition("=") for text in names], "rename")
        rename_factors(run, {factor: name for factor, _, name in pairs})
        page = write_report(run)
        _say(f"Report: {page}")


@contextmanager
def _plain_errors() -> Iterator[None]:
    """What the library logs is said; bad input and bad choices end in one line, not in a traceback."""
    said = _Said(logging.WARNING)
    logging.getLogger("pyro_hmvcrl").addHandler(said)
    try:
        yield
    except BrokenPipeError:  # who reads has seen enough
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
        sys.exit(1)
    except (ValueError, FloatingPointError, OverflowError, MemoryError, OSError) as error:
        for problem in getattr(error, "problems", [error]):  # of one's own logs, all at once
            _say(f"error: {one_line(problem)}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        _say(
            "\nstopped; what was there before is as it was, and the same command goes on or starts anew",
            err=True,
        )
        sys.exit(130)
    finally:
        logging.getLogger("pyro_hmvcrl").removeHandler(said)


class _Said(logging.Handler):
    """Records as lines of the terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        _say(record.getMessage(), err=True)


def _without_report(run: Path) -> bool:
    """Whether a run is there that was stopped while its report was drawn."""
    return (run / "config.json").exists() and not (run / "report.html").exists()


def _say(text: str, err: bool = False) -> None:
    """Print text, in which names may be anything."""
    typer.echo(printable(text), err=err)


def _parted(texts: list[str]) -> list[str]:
    """Names of an option that is given several times, or once with commas."""
    return [name.strip() for text in texts for name in text.split(",") if name.strip()]


def _once(pairs: list[tuple[str, str, str]], option: str) -> list[tuple[str, str, str]]:
    """Names with values, none of which may be given twice: it would not be known which is meant."""
    names = [name for name, _, _ in pairs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{option} {twice}: given {names.count(twice)} times; give it once")
    return pairs


def _as_json(value: str) -> Any:
    """A value as JSON has it, or else as text."""
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _print_notes(notes: list[str]) -> None:
    """What is to be known before the figures are used, where a pipe does not swallow it."""
    for note in notes:
        _say(f"Note: {note}.", err=True)


def _print_covariates(account: dict[str, Any]) -> None:
    """What an import has to say of the covariates."""
    from pyro_hmvcrl.kuaisar.telling import covariates_notes, covariates_text

    _print_notes(covariates_notes(account))
    if text := covariates_text(account):
        _say(text)
