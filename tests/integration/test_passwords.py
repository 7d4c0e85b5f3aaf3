"""Any password that the servers take lets the service in."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest
from sqlalchemy.engine import make_url

from db.engine import Database
from service.config.settings import Settings
from service.database import open_database
from tests.harness import running, settings_for
from tests.servers import AnyDatabase, AnyRabbit, DatabaseServer, RabbitServer

PASSWORDS = ("päß", "€uro", "пароль", "密码\U0001f984", "p@ss/w:rd%2F+ #?é")


@pytest.fixture(params=PASSWORDS)
def with_password(
    request: pytest.FixtureRequest,
    database: Database,
    settings: Settings,
    database_server: AnyDatabase,
    rabbit_server: AnyRabbit,
) -> Iterator[Settings]:
    """A user of this password in both servers."""
    if not isinstance(database_server, DatabaseServer) or not isinstance(
        rabbit_server, RabbitServer
    ):
        pytest.skip("the servers are not ours to make users in")
    user, password = f"u{secrets.token_hex(4)}", request.param
    schema, vhost = settings.database.database, settings.broker_name.partition("/")[2]
    database_server.execute(
        f"SET NAMES utf8mb4; CREATE USER '{user}'@'%' IDENTIFIED BY '{password}';"
        f"GRANT ALL ON `{schema}`.* TO '{user}'@'%';"
    )
    rabbit_server.add_user(user, password)
    rabbit_server.permit(user, vhost)
    yield settings_for(
        environment="production",
        db_host=database_server.host,
        db_port=database_server.port,
        db_user=user,
        db_password=password,
        db_name=schema,
        mq_host=rabbit_server.host,
        mq_port=rabbit_server.port,
        mq_user=user,
        mq_password=password,
        mq_vhost=vhost,
    )
    database_server.execute(f"DROP USER '{user}'@'%'")
    rabbit_server.delete_user(user)


async def test_a_password_beyond_latin1_lets_the_service_in(with_password: Settings) -> None:
    async with running(with_password):
        pass


async def test_a_password_in_a_url_is_the_same(with_password: Settings) -> None:
    url = with_password.database.render_as_string(hide_password=False)
    database = open_database(settings_for(database_url=url, mq_url=with_password.broker))
    assert make_url(url).password == with_password.db_password.get_secret_value()
    async with database.reading():
        pass
    await database.dispose()
