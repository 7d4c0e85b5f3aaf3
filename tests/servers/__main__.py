"""A private database and broker for work by hand: prints the environment the service needs.

    python -m tests.servers --env-file servers.env

Both stay until Ctrl-C or SIGTERM; then they, their data and the file are gone.
"""

import argparse
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from . import (
    DatabaseServer,
    RabbitServer,
    ServersError,
    private_database,
    private_rabbitmq,
)
from .server import PASSWORD, USER

DATABASE = "order_db"
ENDING = (signal.SIGINT, signal.SIGTERM)
FIRST_LINE = "# Written by python -m tests.servers; gone when it ends."


def main() -> None:
    options = _options()
    for number in ENDING:
        signal.signal(number, _end_once)
    try:
        _serve(options.env_file)
    except KeyboardInterrupt:
        print("Servers ended.", file=sys.stderr)
    except ServersError as error:
        sys.exit(str(error))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.servers", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--env-file", type=Path, help="write the environment here too, once ready")
    options = parser.parse_args()
    if options.env_file and options.env_file.exists() and not _ours(options.env_file):
        parser.error(f"{options.env_file} exists and is not a file this command wrote")
    return options


def _serve(env_file: Path | None) -> None:
    database, rabbit = private_database(), private_rabbitmq()
    with ExitStack() as running:
        with ThreadPoolExecutor() as pool:
            for ready in [pool.submit(running.enter_context, each) for each in (database, rabbit)]:
                ready.result()
        database.create_database(DATABASE)
        environment = "".join(f"{line}\n" for line in _environment(database, rabbit))
        if env_file:
            running.enter_context(_written(env_file, environment))
        print(environment, end="", flush=True)
        print(
            f"Database {database.version} and RabbitMQ {rabbit.version} run until Ctrl-C.",
            file=sys.stderr,
        )
        while True:
            signal.pause()


def _end_once(_number: int, _frame: FrameType | None) -> NoReturn:
    """A second Ctrl-C would interrupt the clearing up, which takes seconds, and leave servers."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _environment(database: DatabaseServer, rabbit: RabbitServer) -> list[str]:
    return [
        "ENVIRONMENT=development",
        f"DB_HOST={database.host}",
        f"DB_PORT={database.port}",
        f"DB_USER={USER}",
        f"DB_PASSWORD={PASSWORD}",
        f"DB_NAME={DATABASE}",
        f"MQ_HOST={rabbit.host}",
        f"MQ_PORT={rabbit.port}",
        f"MQ_USER={USER}",
        f"MQ_PASSWORD={PASSWORD}",
        "MQ_VHOST=/",
    ]


@contextmanager
def _written(env_file: Path, environment: str) -> Iterator[None]:
    """The file appears whole: whoever waits for it may read it at once."""
    draft = env_file.with_name(env_file.name + ".new")
    draft.write_text(f"{FIRST_LINE}\n{environment}")
    draft.replace(env_file)
    try:
        yield
    finally:
        env_file.unlink(missing_ok=True)


def _ours(env_file: Path) -> bool:
    return env_file.read_text(errors="replace").startswith(FIRST_LINE)


if __name__ == "__main__":
    main()
