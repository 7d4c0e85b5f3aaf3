"""Texts that mean something to a database, a log, a header, a shell or a page."""

from __future__ import annotations

from collections.abc import Iterator

from tests.faults.corpus import amqp
from tests.faults.corpus.case import CANARY, Case
from tests.faults.corpus.names import IDENTIFIERS, refused_name
from tests.faults.corpus.series import Series, line, named

SQL = (
    *(
        "'",
        "''",
        '"',
        "`",
        "\\",
        "\\'",
        "--",
        "/*",
        "*/",
        ";",
        "%",
        "_",
        "%s",
        "%(id)s",
        ":id",
        "?",
    ),
    *("';DROP/**/TABLE/**/orders;--", "'OR'1'='1", "1;SELECT/**/SLEEP(9)", "\\';--", "x'--"),
    *("'||(SELECT/**/1)||'", "'/**/UNION/**/SELECT/**/1--", "@@version", "0x27", "\\%27"),
    *(
        "'; DROP TABLE orders; -- ",
        "' OR 1=1 -- ",
        "'); DELETE FROM outbox; --",
        "1' AND SLEEP(9)#",
    ),
    *("\x00' OR 1=1", "\x1a", "\u02bc OR 1=1", "\uff07 OR 1=1", "LOAD_FILE('/etc/passwd')"),
)
LOG = (
    *("\n", "\r", "\r\n", "\r\nERROR orders message-failed", '\n{"level":"CRITICAL"}', "\x1b[31m"),
    *("\x1b[2J\x1b[H", "\x1b]0;title\x07", "\x08" * 20, "\x00", "\u2028", "\u202e", "%n%n%n", "%s"),
    *(
        "{0}",
        "{self.__class__}",
        "${jndi:ldap://a/b}",
        "%(message)s",
        "\x9b31m",
        "\\n",
        "\\x1b[31m",
    ),
)
HEADER = (
    *("\r\nx-failure-reason: none", "\r\n\r\n{}", "\nSet-Cookie:a=b", "x-death:1", "%0d%0aA:b"),
    *("\u560d\u560aA:b", "a;b=c", 'a"b', "a,b"),
)
PAGE = (
    *("<script>alert(1)</script>", "<img/src=x/onerror=alert(1)>", "{{7*7}}", "${7*7}", "<%=7*7%>"),
    *("#{7*7}", "javascript:alert(1)", "<!--", "]]>", "&lt;", "=cmd|'/C/calc'!A0", "@SUM(1+1)"),
    *("../../../../etc/passwd", "..\\..\\windows", "file:///etc/passwd", "`id`", "$(id)", "|id"),
    *(";id", "&&id", "http://169.254.169.254/", "!!python/object:os.system", "__import__('os')"),
)


def _everywhere(series: Series, texts: tuple[str, ...]) -> Iterator[Case]:
    """In each text field; an identifier of printable ASCII characters is one, whatever it means."""
    for text in texts:
        what = text[:24].encode("unicode_escape").decode()
        good = text.isascii() and text.isprintable() and " " not in text
        for field in IDENTIFIERS:
            if good:
                fields = series.order()
                fields[field] = f"{fields[field]}{text}"
                yield series.stored(f"{what} in {field}", fields)
            else:
                yield refused_name(series, what, field, CANARY + text)
        fields = series.order(
            items=[line(sku=f"{text}{CANARY}{text}")], **{f"{CANARY}{text}": text}
        )
        yield series.stored(f"{what} in a sku and an unknown name", fields)
        yield series.no_order(f"{what} in totalAmount", series.order(totalAmount=f"5{text}5"))
        header = amqp.table(amqp.text(f"x-{text}"[:100], f"{text}{CANARY}{text}"))
        fields = series.order(totalAmount=0)
        properties = {"headers": header, "reply_to": amqp.short(text), "app_id": amqp.short(text)}
        yield series.no_order(f"{what} in headers of poison", fields, properties=properties)


@named("SQL injection")
def sql(series: Series) -> Iterator[Case]:
    yield from _everywhere(series, SQL)


@named("log injection")
def log(series: Series) -> Iterator[Case]:
    yield from _everywhere(series, LOG)


@named("header injection")
def header(series: Series) -> Iterator[Case]:
    yield from _everywhere(series, HEADER)


@named("injection into pages and shells")
def page(series: Series) -> Iterator[Case]:
    yield from _everywhere(series, PAGE)
