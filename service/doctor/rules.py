"""What is right and wrong for this service, given what a server said. No I/O."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from db import schema
from db.inspection import ClockOffset, ColumnCollation
from service.doctor.findings import Finding, Level

DATABASE = "database"
MIB = 1024 * 1024
LEAST_PACKET_BYTES = 16 * MIB
MOST_CLOCK_SKEW_MS = 1000

VARIABLES = (
    "innodb_flush_log_at_trx_commit",
    "sync_binlog",
    "log_bin",
    "binlog_format",
    "max_allowed_packet",
    "read_only",
    "wsrep_on",
)
# The first with SKIP LOCKED, without which two relays wait for each other, and the first tested.
_VERSIONS = {"MariaDB": ((10, 6), (10, 11)), "MySQL": ((8, 0), (8, 4))}
_LOST_AT_COMMIT = {
    "0": "a crash of the server loses up to a second of orders that were already acknowledged",
    "2": "a power failure or a crash of its machine loses up to a second of orders that were "
    "already acknowledged",
}


def version(text: str) -> Finding:
    product = "MariaDB" if "mariadb" in text.lower() else "MySQL"
    found = text if product in text else f"{product} {text}"
    numbers = re.match(r"(\d+)\.(\d+)", text)
    if numbers is None:
        return _finding("version", Level.UNKNOWN, found)
    number = (int(numbers[1]), int(numbers[2]))
    needed, tested = _VERSIONS[product]
    if number < needed:
        advice = f"too old: {product} {_dotted(needed)} or newer is needed (SKIP LOCKED)"
        return _finding("version", Level.WRONG, found, advice)
    if number < tested:
        advice = f"older than what this service is tested with: {product} {_dotted(tested)}"
        return _finding("version", Level.WARNING, found, advice)
    return _finding("version", Level.OK, found)


def schema_version(found: str | None) -> Finding:
    needed = schema.needed_version()
    if found is None:
        advice = f"this code needs version {needed}: run `orders migrate`"
        return _finding("schema version", Level.WRONG, "never migrated", advice)
    if found == needed:
        return _finding("schema version", Level.OK, found)
    if not schema.is_known(found):
        advice = f"newer than this code's {needed}; newer ones only add, so that it works"
        return _finding("schema version", Level.OK, found, advice)
    advice = f"this code needs version {needed}: run `orders migrate`"
    return _finding("schema version", Level.WRONG, found, advice)


def engines(found: Mapping[str, str | None]) -> Finding:
    other = {table: engine for table, engine in found.items() if engine != "InnoDB"}
    if not other:
        return _finding("table engine", Level.OK, "InnoDB")
    text = ", ".join(f"{table}: {engine or 'not there'}" for table, engine in other.items())
    if None in other.values():
        return _finding("table engine", Level.WRONG, text, "run `orders migrate`")
    advice = "no transactions there, hence none of the promise: ALTER TABLE … ENGINE=InnoDB"
    return _finding("table engine", Level.WRONG, text, advice)


def collations(found: Sequence[ColumnCollation]) -> Finding:
    loose = [
        each for each in found if each.found is None or not each.found.endswith(("_bin", "binary"))
    ]
    if not loose:
        return _finding("id columns", Level.OK, f"compare byte for byte ({len(found)} columns)")
    text = ", ".join(f"{each.column}: {each.found or 'not a text column'}" for each in loose)
    advice = f"ids that differ can count as equal, such as a and A: COLLATE {loose[0].needed}"
    return _finding("id columns", Level.WRONG, text, advice)


def settings(variables: Mapping[str, str]) -> list[Finding]:
    """What the server's own settings mean for the promise."""
    return [
        _flush_at_commit(variables),
        *_binary_log(variables),
        _packet(variables),
        _writable(variables),
        *_galera(variables),
    ]


def clock(offset: ClockOffset) -> Finding:
    found = (
        f"{round(offset.ahead_ms):+d} ms against this machine's "
        f"(within {math.ceil(offset.error_ms)} ms)"
    )
    if abs(offset.ahead_ms) - offset.error_ms <= MOST_CLOCK_SKEW_MS:
        return _finding("clock", Level.OK, found)
    advice = (
        "set both by NTP; leases and delays go by the database's clock alone, so that only "
        "timestamps in events and logs are off"
    )
    return _finding("clock", Level.WARNING, found, advice)


def _flush_at_commit(variables: Mapping[str, str]) -> Finding:
    name = "innodb_flush_log_at_trx_commit"
    value = variables.get(name)
    if value is None:
        return _finding("flush at commit", Level.UNKNOWN, f"no {name} there: is it InnoDB?")
    if value == "1":
        return _finding("flush at commit", Level.OK, f"{name} = 1")
    # MariaDB's 3 flushes at least as much as 1.
    if value == "3":
        return _finding("flush at commit", Level.OK, f"{name} = 3")
    advice = f"{_LOST_AT_COMMIT.get(value, 'commits may be lost')}: set it to 1"
    return _finding("flush at commit", Level.WRONG, f"{name} = {value}", advice)


def _binary_log(variables: Mapping[str, str]) -> list[Finding]:
    if not _on(variables.get("log_bin", "OFF")):
        return [_finding("binary log", Level.OK, "off: no replicas, no point-in-time restore")]
    synced, layout = variables.get("sync_binlog", "?"), variables.get("binlog_format", "ROW")
    found = f"sync_binlog = {synced}, binlog_format = {layout}"
    if layout.upper() == "STATEMENT":
        advice = "InnoDB refuses to write at READ COMMITTED then: set binlog_format to ROW"
        return [_finding("binary log", Level.WRONG, found, advice)]
    if synced != "1":
        advice = (
            "after a power failure the last commits may be missing from the log, and then from "
            "the tables or from a replica too: set sync_binlog to 1"
        )
        return [_finding("binary log", Level.WRONG, found, advice)]
    return [_finding("binary log", Level.OK, found)]


def _packet(variables: Mapping[str, str]) -> Finding:
    value = variables.get("max_allowed_packet", "")
    if not value.isdecimal():
        return _finding("largest packet", Level.UNKNOWN, "max_allowed_packet is not told")
    found = f"max_allowed_packet = {int(value) / MIB:g} MiB"
    if int(value) >= LEAST_PACKET_BYTES:
        return _finding("largest packet", Level.OK, found)
    advice = f"full batches of large orders do not fit: set it to {LEAST_PACKET_BYTES // MIB} MiB"
    return _finding("largest packet", Level.WRONG, found, advice)


def _writable(variables: Mapping[str, str]) -> Finding:
    value = variables.get("read_only", "OFF")
    if not _on(value):
        return _finding("takes writes", Level.OK, "yes")
    advice = "is it a replica? DB_HOST has to name the primary"
    return _finding("takes writes", Level.WRONG, f"no: read_only = {value}", advice)


def _galera(variables: Mapping[str, str]) -> list[Finding]:
    if not _on(variables.get("wsrep_on", "OFF")):
        return []
    advice = "a Galera cluster can lose committed transactions by design: outside the promise"
    return [_finding("cluster", Level.WARNING, "wsrep_on = ON", advice)]


def _on(value: str) -> bool:
    return value.upper() not in {"OFF", "0", ""}


def _dotted(numbers: tuple[int, int]) -> str:
    return ".".join(str(number) for number in numbers)


def _finding(name: str, level: Level, found: str, advice: str = "") -> Finding:
    return Finding(DATABASE, name, level, found, advice)
