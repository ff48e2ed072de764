"""Commands that ask a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pyro_hmvcrl.cli.options import RunFolder, Seed
from pyro_hmvcrl.cli.terminal import plain_errors, print_notes, say
from pyro_hmvcrl.inference.writing import alone_in, whole_file

app = typer.Typer()


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
    with plain_errors():
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
        say(answers_text(answers, run))
        print_notes(notes_of(run))
        say(f"\n{out or own}: all figures.  Report: {page}")


@app.command("profile")
def profile_command(
    run: RunFolder,
    out: Annotated[Path, typer.Option(help="File to write, .parquet or .csv.")],
    seed: Seed = 0,
) -> None:
    """Write a row a user: what the user looks for against what is shown, as it is and were it the same for all."""
    with plain_errors():
        from pyro_hmvcrl.queries.profile import profile, profile_sentences
        from pyro_hmvcrl.report.terminal import notes_of
        from pyro_hmvcrl.run.tables import check_table, write_users

        check_table(out)
        table = profile(run, seed=seed, progress=True)
        write_users(table, out, run)
        for sentence in profile_sentences(table):
            say(f"- {sentence}")
        say(f"{out}: profiles of {len(table):,} users")
        print_notes(notes_of(run))


@app.command("rank")
def rank_command(
    run: RunFolder,
    out: Annotated[Path, typer.Option(help="File to write, .parquet or .csv.")],
    top: Annotated[int, typer.Option(help="Categories, or items, a user.")] = 10,
    as_it_is: Annotated[
        bool, typer.Option("--as-it-is", help="Leave the platform as it is, not the same for all.")
    ] = False,
    items: Annotated[
        Path | None, typer.Option(help="Table of items to rank: item, category and, if you like, popularity.")
    ] = None,
    seed: Seed = 0,
) -> None:
    """Write what each user looks for, were the platform the same for all: a row a user and rank."""
    with plain_errors():
        from pyro_hmvcrl.data.importing import read_own
        from pyro_hmvcrl.queries.ranking import rank
        from pyro_hmvcrl.report.terminal import notes_of
        from pyro_hmvcrl.run.tables import check_table, check_text, write_users

        check_table(out)
        own = read_own(items).frame if items else None
        if items and own is not None:
            check_text(own, out, items)
        table = rank(run, as_it_is=as_it_is, items=own, top=top, seed=seed, progress=True)
        write_users(table, out, run)
        ranked, users = "categories" if items is None else "items", table["user_id"].nunique()
        say(f"{out}: {table['rank'].max()} {ranked} of each of {users:,} users")
        print_notes(notes_of(run))


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
    with plain_errors():
        from pyro_hmvcrl.queries.validation import FILE, keep_validation, validate
        from pyro_hmvcrl.report.page import write_report
        from pyro_hmvcrl.report.terminal import notes_of
        from pyro_hmvcrl.report.validation import validation_text
        from pyro_hmvcrl.run.files import check_out

        check_out(out or run / FILE, run / FILE)
        found = validate(run, after, counterfactual=counterfactual, level=level, seed=seed, progress=True)
        keep_validation(run, found, out)
        page = write_report(run)
        say(validation_text(found))
        print_notes([*found["remarks"], *notes_of(run)])
        say(f"\n{out or run / FILE}: all figures.  Report: {page}")


@app.command("frontier")
def frontier_command(
    run: RunFolder,
    out: Annotated[
        Path,
        typer.Option(
            help="File to write, .parquet or .csv: all shifts that the data support; beside it goes a figure (.png)."
        ),
    ],
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
    with plain_errors():
        from pyro_hmvcrl.queries.frontier import frontier, parse_between
        from pyro_hmvcrl.report.answer_figures import frontier_plane
        from pyro_hmvcrl.report.style import to_bytes
        from pyro_hmvcrl.report.terminal import frontier_text, notes_of
        from pyro_hmvcrl.run.files import check_out
        from pyro_hmvcrl.run.tables import check_table, write_table

        box, picture = parse_between(between or []), out.with_suffix(".png")
        check_table(out)
        check_out(picture)
        table = frontier(run, box, points=points, level=level, seed=seed, progress=True)
        write_table(table, out)
        with whole_file(picture) as file:
            file.write_bytes(to_bytes(frontier_plane(table, level), "png"))
        say(frontier_text(table, level))
        print_notes(notes_of(run))
        say(f"{out}: {len(table):,} shifts that the data support; {picture}: the same to look at")
