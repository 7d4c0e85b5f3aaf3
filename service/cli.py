"""`orders …`: the operators' command line. Commands translate; the work is done elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from sqlalchemy.exc import SQLAlchemyError

from service.config.settings import Settings, load_settings
from service.domain.errors import BrokerAwayError, ConfigurationError, UnusableFileError
from service.driver_errors import explain_database
from service.observability import configure_logging, where
from service.progress import Waits

if TYPE_CHECKING:
    from service.sender import Sent

INTERRUPTED = 130  # as a shell says it of Ctrl-C
MIGRATION_SECONDS = 3600.0  # an index on a large table takes its time
_AGAIN = "Sending the same file again is safe: orders are recognised by their keys."

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


def _say(message: str) -> None:
    errors.print(message, markup=False, highlight=False, soft_wrap=True)


def _sentence(words: str) -> str:
    return words if words.endswith("?") else f"{words}."


def _fail(message: str) -> NoReturn:
    errors.print(message, style="red", markup=False, soft_wrap=True)
    raise typer.Exit(1)


@cli.command()
def migrate(
    timeout: Annotated[
        float, typer.Option(min=1, help="Deadline in seconds.", metavar="SECONDS")
    ] = MIGRATION_SECONDS,
) -> None:
    """Create or upgrade the schema. Needs a user who may create and alter tables."""
    from db.schema import ForeignTablesError, needed_version
    from service.database import migrate as migrate_database
    from service.database import open_database

    settings = _settings()
    waits = Waits(f"the database {settings.database_name}", _say)

    async def run() -> None:
        database = open_database(settings)
        try:
            with waits:
                await migrate_database(database, seconds=timeout, waiting_for=waits.begin)
        finally:
            await database.dispose()

    try:
        asyncio.run(run())
    except TimeoutError:
        _fail(f"The database {settings.database_name} was not migrated: {waits.in_vain()}.")
    except (UnusableFileError, ForeignTablesError, SQLAlchemyError, OSError) as error:
        refused = isinstance(error, UnusableFileError | ForeignTablesError)
        known = str(error) if refused else explain_database(error)
        _fail(f"The database {settings.database_name} was not migrated: {_sentence(known)}")
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
    from service.input_lines import Line, numbered_lines, open_source, why_unreadable
    from service.sender import Sent, SourceError, sample_lines
    from service.sender import send as send_lines

    settings, sent = _settings(), Sent()
    if (source is None) == (sample is None):
        _fail("Say what to send: a FILE, - for standard input, or --sample N.")
    if settings.embedded_broker:
        _fail(
            "There is no broker to send to: set MQ_HOST or MQ_URL. "
            "The embedded mode's broker lives inside the service; send from its /console page."
        )
    name = "Standard input" if source == "-" else source
    try:
        lines: Iterator[Line] = (
            enumerate(sample_lines(sample or 0, seed=seed), 1)
            if source is None
            else numbered_lines(open_source(source))
        )
        with _progress(settings, sent, sample) as progress:
            asyncio.run(send_lines(settings, lines, sent, progress))
    except KeyboardInterrupt:
        _tell(sent)
        _say(f"Interrupted. {_AGAIN}")
        raise typer.Exit(INTERRUPTED) from None
    except BrokerAwayError as error:
        _tell(sent)
        _fail(f"RabbitMQ at {settings.broker_name}: {_sentence(str(error))} {_AGAIN}")
    except SourceError as error:
        _tell(sent)
        _fail(f"{name} cannot be read to its end: {error}.")
    except OSError as error:
        _fail(f"{name} cannot be read: {why_unreadable(error)}.")
    _tell(sent)
    if sent.unroutable:
        _fail(
            f"The queue {settings.incoming_order_queue} is not there: "
            "start the service once, or correct INCOMING_ORDER_QUEUE."
        )
    if sent.rejected:
        _fail(f"The queue {settings.incoming_order_queue} is full, or cannot store: try again.")
    if sent.refused_locally:
        raise typer.Exit(1)


@contextmanager
def _progress(settings: Settings, sent: Sent, total: int | None) -> Iterator[Callable[[], None]]:
    """A bar while it lasts; how long a file is, is not known before its end."""
    with Progress(
        SpinnerColumn("line"),  # letters that every terminal has
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        console=errors,
    ) as bar:
        task = bar.add_task(f"Sending to {settings.incoming_order_queue}", total=total)
        yield lambda: bar.update(task, completed=sent.total)


def _tell(sent: Sent) -> None:
    counts = [f"{sent.confirmed} confirmed", f"{sent.refused_locally} refused locally"]
    counts.append(f"{sent.unroutable} unroutable")
    if sent.rejected:
        counts.append(f"{sent.rejected} rejected")
    if sent.unsettled:
        counts.append(f"{sent.unsettled} sent and not confirmed")
    console.print(", ".join(counts), highlight=False)
    for refusal in sent.refusals:
        _say(f"  {refusal}")


@cli.command()
def check() -> None:
    """Connect to everything configured and say what is right and what is wrong."""
    from service.doctor import Level, check_all, render

    findings = asyncio.run(check_all(_settings()))
    console.print(render(findings))
    if any(finding.level is Level.WRONG for finding in findings):
        raise typer.Exit(1)


def main() -> None:
    """The command line as a process: it ends with a sentence and a status, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that knows only ASCII
    try:
        cli()
    except OSError as error:
        _last_words(f"orders cannot go on: {error.strerror or type(error).__name__}.")
    except Exception as error:  # noqa: BLE001 - the last place that can put it into words
        _last_words(f"A defect of orders: {type(error).__name__} at {where(error)}.")
    finally:
        _flush()


def _last_words(message: str) -> NoReturn:
    with contextlib.suppress(OSError):
        print(message, file=sys.stderr)  # noqa: T201 - by the plainest way there is
    raise SystemExit(1) from None


def _flush() -> None:
    """What is left goes nowhere where nothing reads it any more, rather than to a traceback."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
