"""A private MariaDB or MySQL, as durable as in production, or the one TEST_DATABASE_URL names."""

import os
from typing import ClassVar, Self
from urllib.parse import quote, unquote, urlsplit

from .errors import ServerFailed, ServersUnavailable
from .handshake import mysql_version
from .place import Place
from .process import Process, free_ports
from .server import PASSWORD, USER, GivenServer, PrivateServer
from .tls import ServerCertificate

# MariaDB's installer runs this without the grant tables: the first line opens them.
ACCOUNT = "FLUSH PRIVILEGES;\n" + "".join(
    f"CREATE USER '{USER}'@'{host}' IDENTIFIED BY '{PASSWORD}';\n"
    f"GRANT ALL PRIVILEGES ON *.* TO '{USER}'@'{host}' WITH GRANT OPTION;\n"
    for host in ("localhost", "127.0.0.1")
)


class DatabaseServer(PrivateServer):
    """MariaDB where it is installed, else MySQL; nothing of the machine's own configuration."""

    title: ClassVar[str] = "the database server"

    def __init__(self, place: Place, server: str, client: str, installer: str | None) -> None:
        super().__init__(place, *free_ports(1))
        self._server = server
        self._client = client
        self._installer = installer
        # From the next start on, beside those it has anyway.
        self.options: tuple[str, ...] = ()
        # From the next start on it offers TLS with this one, beside plain text.
        self.certificate: ServerCertificate | None = None

    @classmethod
    def find(cls, place: Place) -> Self:
        server = place.find("mariadbd", "mysqld")
        client = place.find("mariadb", "mysql")
        installer = place.find("mariadb-install-db")
        if server is None or client is None:
            raise ServersUnavailable(
                "no MariaDB or MySQL (mariadbd or mysqld, with its client)",
                "install one: apt-get install mariadb-server",
                "or set TEST_DATABASE_URL=mysql+aiomysql://user:password@host:3306/ to one the"
                " tests may create databases in",
                "or, as root, let tests/servers/make_root.sh make a folder with MySQL and RabbitMQ"
                " in it and set TEST_SERVERS_ROOT to that folder",
            )
        return cls(place, server, client, installer if "mariadb" in server else None)

    def url(self, name: str) -> str:
        return f"mysql+aiomysql://{USER}:{PASSWORD}@{self.host}:{self.port}/{quote(name, safe='')}"

    def create_database(self, name: str) -> str:
        self.execute(create_statement(name))
        return self.url(name)

    def drop_database(self, name: str) -> None:
        self.execute(drop_statement(name))

    def execute(self, sql: str) -> str:
        """Run statements as the administrator; rows come back as lines, columns between tabs."""
        return self._place.run(
            self._client,
            "--no-defaults",
            "--batch",
            "--skip-column-names",
            "--user=root",
            f"--socket={self._inside('socket')}",
            environment={"HOME": self._inside("")},
            standard_input=sql,
        )

    def _prepare(self) -> None:
        (self.folder / "account.sql").write_text(ACCOUNT)
        if self._installer:
            words = [
                self._installer,
                "--no-defaults",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                "--skip-name-resolve",
                f"--extra-file={self._inside('account.sql')}",
            ]
        else:
            # What is not safe from a crash is only the making of the empty data.
            words = [
                self._server,
                "--no-defaults",
                "--initialize-insecure",
                "--skip-log-bin",
                "--innodb-flush-log-at-trx-commit=0",
                f"--init-file={self._inside('account.sql')}",
            ]
        self._place.run(
            *words,
            *self._common_options(),
            environment={"HOME": self._inside("")},
        )

    def _launch(self) -> Process:
        words = [
            self._server,
            "--no-defaults",
            *self._common_options(),
            f"--port={self.port}",
            f"--bind-address={self.host}",
            f"--socket={self._inside('socket')}",
            f"--pid-file={self._inside('server.pid')}",
            "--skip-name-resolve",
            "--server-id=1",
            "--log-bin=binlog",
            "--sync-binlog=1",
            "--innodb-flush-log-at-trx-commit=1",
            "--innodb-buffer-pool-size=64M",
            "--loose-mysqlx=OFF",
            *self._tls_options(),
            *self.options,
        ]
        return Process(
            self._place.command(*words), {"HOME": self._inside("")}, self.folder / "server.log"
        )

    def _tls_options(self) -> list[str]:
        if self.certificate is None:
            return []
        self.certificate.write(self.folder)
        return [
            f"--ssl-cert={self._inside('certificate.pem')}",
            f"--ssl-key={self._inside('key.pem')}",
        ]

    def _common_options(self) -> list[str]:
        # Both refuse to run as root unless told so; the folder belongs to whoever runs the tests.
        as_root = ["--user=root"] if os.geteuid() == 0 else []
        # Temporary tables in a folder of its own: another server removes what it finds in /tmp.
        (self.folder / "tmp").mkdir(exist_ok=True)
        return [f"--datadir={self._inside('data')}", f"--tmpdir={self._inside('tmp')}", *as_root]

    def _ask_version(self) -> str | None:
        return mysql_version(self.host, self.port)


class GivenDatabase(GivenServer):
    title: ClassVar[str] = "database server"
    variable: ClassVar[str] = "TEST_DATABASE_URL"

    @classmethod
    def at(cls, url: str) -> Self:
        parts = urlsplit(url)
        host, port = parts.hostname or "127.0.0.1", parts.port or 3306
        version = mysql_version(host, port)
        if version is None:
            raise ServersUnavailable(
                f"TEST_DATABASE_URL names {host}:{port}, where no MariaDB or MySQL answers",
                "start it, or unset TEST_DATABASE_URL and the tests look for one to start",
            )
        return cls(url, host, port, version)

    def url(self, name: str) -> str:
        return urlsplit(self.given_url)._replace(path="/" + quote(name, safe="")).geturl()

    def create_database(self, name: str) -> str:
        self.execute(create_statement(name))
        return self.url(name)

    def drop_database(self, name: str) -> None:
        self.execute(drop_statement(name))

    def execute(self, sql: str) -> str:
        """One statement, with the rights of the URL's user."""
        import pymysql

        parts = urlsplit(self.given_url)
        try:
            link = pymysql.connect(
                host=self.host,
                port=self.port,
                user=unquote(parts.username or ""),
                password=unquote(parts.password or ""),
                autocommit=True,
                connect_timeout=10,
                read_timeout=60,
            )
            with link, link.cursor() as cursor:
                cursor.execute(sql)
                return "".join("\t".join(map(str, row)) + "\n" for row in cursor.fetchall())
        except pymysql.MySQLError as error:
            raise ServerFailed(f"TEST_DATABASE_URL's server refused: {sql}\n{error}") from error


def create_statement(name: str) -> str:
    return f"CREATE DATABASE {_quoted(name)} CHARACTER SET utf8mb4"


def drop_statement(name: str) -> str:
    return f"DROP DATABASE {_quoted(name)}"


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"
