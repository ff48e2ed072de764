"""Commands that make datasets: of simulated worlds and of your own files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from pyro_hmvcrl.cli.terminal import once, plain_errors, say
from pyro_hmvcrl.synthetic.design import Design

app = typer.Typer()

FORMATS = ("parquet", "csv", "kuaisar")


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
        check_new_folder(out)
        if format == "kuaisar":
            write_kuaisar_copy(out, users, seed, events=events, progress=True)
            say(f"{out}: a generated copy of KuaiSAR with {users:,} users")
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
        )
        for sentence in account.said:
            say(f"- {sentence}")
        kept = [f"{of['kept']:,} {label}" for label, of in account.tables.items()]
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
