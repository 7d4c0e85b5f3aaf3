"""`orders …`: the operators' command line. Commands translate; the work is done elsewhere."""

from __future__ import annotations

import asyncio
import zlib
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from sqlalchemy.exc import SQLAlchemyError

from service.errors import BrokerAwayError, ConfigurationError
from service.explain import explain_database
from service.settings import Settings, load_settings
from service.telemetry import configure_logging

cli = typer.Typer(
    name="orders",
    help="Operate the order service. Reads the same environment as the service.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console()
errors = Console(stderr=True)


def _settings() -> Settings:
    try:
        settings = load_settings()
    except ConfigurationError as error:
        _fail(str(error))
    configure_logging("WARNING", settings.log_format)
    return settings


def _sentence(words: str) -> str:
    return words if words.endswith("?") else f"{words}."


def _fail(message: str) -> NoReturn:
    errors.print(message, style="red", markup=False, soft_wrap=True)
    raise typer.Exit(1)


@cli.command()
def migrate() -> None:
    """Create or upgrade the schema. Needs a user who may create and alter tables."""
    from db.schema import needed_version
    from service.storage import migrate as migrate_database
    from service.storage import open_database

    settings = _settings()

    async def run() -> None:
        database = open_database(settings)
        try:
            await migrate_database(database)
        finally:
            await database.dispose()

    try:
        asyncio.run(run())
    except (SQLAlchemyError, TimeoutError, OSError) as error:
        why = _sentence(explain_database(error))
        _fail(f"The database {settings.database_name} was not migrated: {why}")
    console.print(
        f"The schema of {settings.database_name} is at version {needed_version()}.", highlight=False
    )


@cli.command()
def send(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILE|-]",
            help="JSON lines, plain or gzipped, one OrderCreated a line; - for standard input.",
            show_default=False,
        ),
    ] = None,
    sample: Annotated[
        int | None,
        typer.Option(min=1, help="Instead of a file: this many plausible orders.", metavar="N"),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Draw the same samples again.")] = None,
) -> None:
    """Publish OrderCreated messages, each confirmed by the broker."""
    from service.sending import Sent, read_lines, sample_lines
    from service.sending import send as send_lines

    settings = _settings()
    if (source is None) == (sample is None):
        _fail("Say what to send: a FILE, - for standard input, or --sample N.")
    if settings.embedded_broker:
        _fail(
            "There is no broker to send to: set MQ_HOST or MQ_URL. "
            "The embedded mode's broker lives inside the service; send from its /console page."
        )
    try:
        lines = list(read_lines(source) if source else sample_lines(sample or 0, seed=seed))
    except (OSError, EOFError, zlib.error) as error:
        why = getattr(error, "strerror", None) or "it is damaged, or cut off"
        _fail(f"{source} cannot be read: {why}.")
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        console=errors,
    ) as bar:
        task = bar.add_task(f"Sending to {settings.incoming_order_queue}", total=len(lines))

        def progress(sent: Sent) -> None:
            bar.update(task, completed=sent.total)

        try:
            sent = asyncio.run(send_lines(settings, lines, progress))
        except BrokerAwayError as error:
            bar.stop()
            _fail(
                f"RabbitMQ at {settings.broker_name}: {_sentence(str(error))} "
                "Sending the same file again is safe: orders are recognised by their keys."
            )
    console.print(
        f"{sent.confirmed} confirmed, {sent.refused_locally} refused locally, "
        f"{sent.unroutable} unroutable" + (f", {sent.rejected} rejected" if sent.rejected else ""),
        highlight=False,
    )
    for refusal in sent.refusals:
        errors.print(f"  {refusal}", markup=False, highlight=False)
    if sent.unroutable:
        _fail(
            f"The queue {settings.incoming_order_queue} is not there: "
            "start the service once, or correct INCOMING_ORDER_QUEUE."
        )
    if sent.rejected:
        _fail(f"The queue {settings.incoming_order_queue} is full, or cannot store: try again.")
    if sent.refused_locally:
        raise typer.Exit(1)


@cli.command()
def check() -> None:
    """Connect to everything configured and say what is right and what is wrong."""
    from service.checking import Level, check_all, render

    findings = asyncio.run(check_all(_settings()))
    console.print(render(findings))
    if any(finding.level is Level.WRONG for finding in findings):
        raise typer.Exit(1)


if __name__ == "__main__":
    cli()
