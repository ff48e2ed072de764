"""Commands of KuaiSAR: download, import, and the study of published against obtained figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pyro_hmvcrl.cli.options import (
    DEFAULTS,
    CategoryLevel,
    CovariatesShare,
    Device,
    EncoderSteps,
    KuaisarSource,
    Restarts,
    Seed,
    Steps,
)
from pyro_hmvcrl.cli.terminal import plain_errors, print_notes, say
from pyro_hmvcrl.inference.settings import Settings

app = typer.Typer()


@app.command("download-kuaisar")
def download_kuaisar(
    out: Annotated[Path, typer.Argument(help="Folder for the zip.")],
    full: Annotated[bool, typer.Option(help="The full release, not the small one.")] = False,
) -> None:
    """Download KuaiSAR's zip; a download that was interrupted goes on."""
    with plain_errors():
        from pyro_hmvcrl.kuaisar.download import FULL, SMALL, download

        archive = FULL if full else SMALL
        say(archive.terms)
        path = download(archive, out, progress=True)
        say(f"{path}: complete, checksum right")


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
    with plain_errors():
        from pyro_hmvcrl.kuaisar.clock import moment
        from pyro_hmvcrl.kuaisar.folder import write_kuaisar
        from pyro_hmvcrl.kuaisar.reading import read_kuaisar
        from pyro_hmvcrl.kuaisar.telling import files_text, logs_text
        from pyro_hmvcrl.run.files import check_new_folder

        check_new_folder(out)
        window = moment(since), moment(until)
        logs = read_kuaisar(source, level, progress=True).between(*window)
        account = write_kuaisar(logs, out, min_events=min_events, covariates_share=covariates_share)
        say(files_text(account))
        _print_covariates(account)
        say(logs_text(account, out))


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
    with plain_errors():
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
        say(published_text(found))
        say(f"\nReport: {page}")


def _print_covariates(account: dict[str, Any]) -> None:
    """What an import has to say of the covariates."""
    from pyro_hmvcrl.kuaisar.telling import covariates_notes, covariates_text

    print_notes(covariates_notes(account))
    if text := covariates_text(account):
        say(text)
