"""Commands that make datasets: of simulated worlds and of your own files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyro_hmvcrl.cli.terminal import once, plain_errors, say
from pyro_hmvcrl.synthetic.design import Design

if TYPE_CHECKING:
    from pyro_hmvcrl.data.frames import Account

app = typer.Typer()

COPIES = ("kuaisar", "finn", "yambda")
FORMATS = ("parquet", "csv", *COPIES)


@app.command("simulate")
def simulate_command(
    out: Annotated[Path, typer.Argument(help="Dataset folder to write; truth.npz and truth.json go in it.")],
    users: Annotated[int, typer.Option(help="Number of users.")] = Design.users,
    seed: Annotated[int, typer.Option(help="Seed of the world, its users and their logs.")] = 0,
    knob: Annotated[
        list[str] | None, typer.Option(help="Any knob of synthetic.Design as NAME=JSON, e.g. scale=0.")
    ] = None,
    format: Annotated[
        str,
        typer.Option(
            help="parquet, csv, or kuaisar, finn or yambda: a generated copy of that dataset's files."
        ),
    ] = "parquet",
    events: Annotated[float, typer.Option(help="Of kuaisar: events a user, as a share of KuaiSAR's.")] = 1.0,
) -> None:
    """Write a dataset folder with known truth, or (--format kuaisar, finn, yambda) a copy of a public one's files."""
    with plain_errors():
        from pyro_hmvcrl.data.tables import DatasetError
        from pyro_hmvcrl.kuaisar.copy.folder import write_kuaisar_copy
        from pyro_hmvcrl.run.files import check_new_folder
        from pyro_hmvcrl.synthetic.folder import write_simulation
        from pyro_hmvcrl.synthetic.simulation import simulate

        if format not in FORMATS:
            raise DatasetError(
                f"{out}: format {format!r} is none of {', '.join(FORMATS)}; choose one of them"
            )
        if format in COPIES and knob:
            raise DatasetError(f"{out}: a copy of {format} has no knobs; leave --knob out")
        if format != "kuaisar" and events != 1:
            raise DatasetError(f"{out}: --events is for --format kuaisar alone; leave it out")
        check_new_folder(out)
        if format == "kuaisar":
            write_kuaisar_copy(out, users, seed, events=events, progress=True)
            say(f"{out}: a generated copy of KuaiSAR with {users:,} users")
            return
        if format in ("finn", "yambda"):
            from pyro_hmvcrl.data.finn.copy import write_finn_copy
            from pyro_hmvcrl.data.yambda.copy import write_yambda_copy

            write_copy = write_finn_copy if format == "finn" else write_yambda_copy
            write_copy(out, users, seed)
            say(f"{out}: a generated copy of {format}'s files with {users:,} users")
            return
        knobs = once([text.partition("=") for text in knob or []], "--knob")
        design = Design.with_knobs(**({"users": users} | {name: _as_json(value) for name, _, value in knobs}))
        world = simulate(design, seed)
        write_simulation(world, out, seed, format=format, progress=True)
        searched, shown = int(world.search.sum()), int(world.exposure.sum())
        say(f"{out}: {design.users:,} users, {searched:,} search and {shown:,} recommendation events")


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
    outcomes: Annotated[
        list[str] | None,
        typer.Option(help="Columns of RECOMMENDATIONS with yes or no beside engagement, e.g. liked."),
    ] = None,
) -> None:
    """Make a dataset folder of your own files, Parquet or CSV, and say all that was done to them."""
    with plain_errors():
        from pyro_hmvcrl.data.importing import import_files
        from pyro_hmvcrl.data.tables import DatasetError
        from pyro_hmvcrl.run.files import check_new_folder

        check_new_folder(out)
        pairs = once([text.partition("=") for text in map or []], "--map")
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
            outcomes=_parted(outcomes or []),
        )
        _say_account(account, out)


@app.command("import-finn")
def import_finn_command(
    folder: Annotated[
        Path, typer.Argument(help="Folder of FINN.no's data.npz, itemattr.npz and ind2val.json.")
    ],
    out: Annotated[Path, typer.Argument(help="Dataset folder to write, with import.json in it.")],
    users: Annotated[int, typer.Option(help="The first so many of the file are read.")] = 25_000,
    level: Annotated[
        str, typer.Option(help="Of the categories: main (BAP), kind (BAP,antiques) or place (all of it).")
    ] = "kind",
    top_categories: Annotated[
        int, typer.Option(help="All but this many of the most frequent categories become one.")
    ] = 40,
    covariates_share: Annotated[
        float,
        typer.Option(
            help="Share of each user's steps, the first, in which covariates are measured; events are of the rest."
        ),
    ] = 0.33,
    covariates: Annotated[
        Path | None, typer.Option(help="A file of your own with userId and columns, a row a user.")
    ] = None,
    exposure: Annotated[
        list[str] | None,
        typer.Option(
            help="Columns of it, or measured ones, that tell what the platform did; by default all measured."
        ),
    ] = None,
    preference: Annotated[list[str] | None, typer.Option(help="Likewise, that tell who the user is.")] = None,
) -> None:
    """Make a dataset folder of FINN.no's slates, and say what was left out, and why."""
    with plain_errors():
        from pyro_hmvcrl.data.finn.importing import import_finn
        from pyro_hmvcrl.run.files import check_new_folder

        check_new_folder(out)
        account = import_finn(
            folder,
            out,
            users=users,
            level=level,
            top_categories=top_categories,
            covariates_share=covariates_share,
            covariates=covariates,
            exposure=None if exposure is None else _parted(exposure),
            preference=None if preference is None else _parted(preference),
        )
        _say_account(account, out)


@app.command("import-yambda")
def import_yambda_command(
    folder: Annotated[
        Path, typer.Argument(help="Folder of Yambda's listens.parquet, of one size, and embeddings.parquet.")
    ],
    out: Annotated[Path, typer.Argument(help="Dataset folder to write, with import.json in it.")],
    users: Annotated[int, typer.Option(help="The first so many, by uid.")] = 10_000,
    days: Annotated[int, typer.Option(help="The last days of the file, of which the events are.")] = 14,
    covariates_days: Annotated[int, typer.Option(help="Days before, in which covariates are measured.")] = 28,
    categories: Annotated[int, typer.Option(help="Clusters of the tracks' audio embeddings.")] = 24,
) -> None:
    """Make a dataset folder of Yambda's listens, and say what was left out, and why."""
    with plain_errors():
        from pyro_hmvcrl.data.yambda.importing import import_yambda
        from pyro_hmvcrl.run.files import check_new_folder

        check_new_folder(out)
        _say_account(import_yambda(folder, out, users, days, covariates_days, categories), out)


def _say_account(account: Account, out: Path) -> None:
    """What was done to tables, and what there is of each."""
    from pyro_hmvcrl.data.frames import LABELS

    for sentence in account.said:
        say(f"- {sentence}")
    kept = [f"{of['kept']:,} {label}" for label, of in account.tables.items() if label in LABELS]
    say(f"{out}: {', '.join(kept)}")


def _parted(texts: list[str]) -> list[str]:
    """Names of an option that is given several times, or once with commas."""
    return [name.strip() for text in texts for name in text.split(",") if name.strip()]


def _as_json(value: str) -> Any:
    """A value as JSON has it, or else as text."""
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
