"""Commands that make runs, and read new logs by them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pyro_hmvcrl.cli.options import (
    DEFAULTS,
    DatasetFolder,
    Device,
    EncoderSteps,
    PeriodNumber,
    PlatformFactors,
    PreferenceFactors,
    Restarts,
    RunFolder,
    Seed,
    Steps,
)
from pyro_hmvcrl.cli.terminal import once, plain_errors, print_notes, say
from pyro_hmvcrl.data.files import clear_away
from pyro_hmvcrl.inference.settings import Settings
from pyro_hmvcrl.inference.writing import alone_in
from pyro_hmvcrl.synthetic.design import SUBSTITUTION, Design

app = typer.Typer()


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the data and the run.")] = Path("demo-run"),
) -> None:
    """Simulate logs with known truth, fit, ask for a policy's effects, report: a minute and a half on two cores."""
    with plain_errors():
        from pyro_hmvcrl.queries.answer import effects, write_effects
        from pyro_hmvcrl.queries.interventions import add
        from pyro_hmvcrl.report.page import write_report
        from pyro_hmvcrl.report.terminal import effects_text, notes_of, summary_text
        from pyro_hmvcrl.run.fitting import fit_folder
        from pyro_hmvcrl.synthetic.folder import write_simulation
        from pyro_hmvcrl.synthetic.simulation import simulate

        data, run = out / "simulated-logs", out / "run"
        if not data.exists():  # a demo that was interrupted goes on
            world = simulate(Design.with_knobs(**SUBSTITUTION, users=3_000), seed=0)
            write_simulation(world, data, seed=0, progress=True)
        if not run.exists():
            fit_folder(data, run, Settings(2, 3, restarts=2, encoder_steps=400, periods=1), progress=True)
        answer = effects(run, [add("exposure_1", 1.0)], progress=True)
        with alone_in(run):
            write_effects(answer, run / "effects.json")
            page = write_report(run)
        say(summary_text(run))
        say(f"\n{effects_text(answer, run)}")
        print_notes(notes_of(run))
        say(f"\nLook at it: {page}")


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
    with plain_errors():
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
        say(selection_text(found))
        if out is not None:
            write_selection(found, out)
            say(f"{out}: table and figure")


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
    with plain_errors():
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
        say(summary_text(out))
        print_notes(notes_of(out))
        say(f"\nReport: {page}")


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
    raw: Annotated[
        bool, typer.Option("--raw", help="As the encoders alone have them, without the scoring that follows.")
    ] = False,
) -> None:
    """Write the factors of new logs under a fitted run."""
    with plain_errors():
        from pyro_hmvcrl.data.folder import read_dataset
        from pyro_hmvcrl.queries.overlap import beside_fit
        from pyro_hmvcrl.report.terminal import notes_of
        from pyro_hmvcrl.run.files import RunError, named_after
        from pyro_hmvcrl.run.load import load_run
        from pyro_hmvcrl.run.tables import check_table, check_text, write_table

        if out is None:
            out = Path(named_after(dataset, "-factors.parquet").name)
            if out.exists():
                raise RunError(f"{out}: exists already; remove it, or say with --out where to write")
        check_table(out)
        fitted = load_run(run)
        logs = read_dataset(dataset, fitted.categories, fitted.periods)
        check_text(logs.users[["user_id"]], out, dataset)
        factors = fitted.encode(logs, raw=raw)
        beside = beside_fit(run, logs.users)
        factors["outside"], notes = beside.outside, [*beside.sentences, *logs.remarks, *notes_of(run)]
        write_table(factors, out)
        say(f"{out}: factors of {len(factors):,} users")
        print_notes(notes)


@app.command()
def report(run: RunFolder) -> None:
    """Draw a run's figures and write its report.html anew."""
    with plain_errors():
        from pyro_hmvcrl.report.page import write_report

        page = write_report(run)
        say(f"Report: {page}")


@app.command()
def rename(
    run: RunFolder,
    names: Annotated[list[str], typer.Argument(help='FACTOR=NAME, e.g. preference_1="westerns".')],
) -> None:
    """Give factors names of your own, and write the report anew."""
    with plain_errors():
        from pyro_hmvcrl.report.page import write_report
        from pyro_hmvcrl.run.labels import rename_factors

        pairs = once([text.partition("=") for text in names], "rename")
        rename_factors(run, {factor: name for factor, _, name in pairs})
        page = write_report(run)
        say(f"Report: {page}")


def _without_report(run: Path) -> bool:
    """Whether a run is there that was stopped while its report was drawn."""
    return (run / "config.json").exists() and not (run / "report.html").exists()
