"""Real servers for the tests: started privately where their programs are installed, or lent.

    with find_database() as database, find_rabbitmq() as rabbit:
        url = database.create_database("orders_1")
        rabbit.kill()
        rabbit.start()

`python -m tests.servers` starts both for work by hand.
"""

import os

from .database import DatabaseServer, GivenDatabase
from .errors import NotOurs, ServerFailed, ServersError, ServersUnavailable
from .place import chosen_place
from .process import wait_until
from .rabbitmq import GivenRabbit, RabbitServer

AnyDatabase = DatabaseServer | GivenDatabase
AnyRabbit = RabbitServer | GivenRabbit

__all__ = [
    "AnyDatabase",
    "AnyRabbit",
    "DatabaseServer",
    "GivenDatabase",
    "GivenRabbit",
    "NotOurs",
    "RabbitServer",
    "ServerFailed",
    "ServersError",
    "ServersUnavailable",
    "find_database",
    "find_rabbitmq",
    "private_database",
    "private_rabbitmq",
    "wait_until",
]


def find_database() -> AnyDatabase:
    """The server TEST_DATABASE_URL names, else a private one, not yet started."""
    url = os.environ.get("TEST_DATABASE_URL")
    return GivenDatabase.at(url) if url else private_database()


def find_rabbitmq() -> AnyRabbit:
    """The broker TEST_MQ_URL names, else a private one, not yet started."""
    url = os.environ.get("TEST_MQ_URL")
    return GivenRabbit.at(url) if url else private_rabbitmq()


def private_database() -> DatabaseServer:
    return DatabaseServer.find(chosen_place())


def private_rabbitmq() -> RabbitServer:
    return RabbitServer.find(chosen_place())
