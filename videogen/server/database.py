"""Tables and connections: SQLite in write-ahead mode, or PostgreSQL for several servers.

Times are seconds since 1970 by the clock of the database (`epoch()`), so that servers whose clocks differ agree about leases.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Connection,
    Engine,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    create_engine,
    event,
    insert,
    select,
)
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

SCHEMA_VERSION = "1"
BUSY_SECONDS = 30
UNAVAILABLE = (OperationalError, InterfaceError, PoolTimeout)
"""What a database that is locked, full, gone or out of connections raises: it may pass."""

_READER = "videogen_reader"

metadata = MetaData()
_JSON = JSON(none_as_null=True)

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("tenant", String(100), nullable=False),
    Column("key_name", String(100)),
    Column("dialect", String(16), nullable=False),
    Column("status", String(16), nullable=False),
    Column("priority", Integer, nullable=False, default=0),
    Column("created_at", Float, nullable=False),
    Column("started_at", Float),
    Column("finished_at", Float),
    Column("expires_at", Float),
    Column("not_before", Float, nullable=False, default=0.0),
    Column("request", _JSON, nullable=False),
    Column("asked", _JSON, nullable=False),
    Column("adjusted", _JSON, nullable=False),
    Column("warnings", _JSON, nullable=False),
    Column("prompt", Text, nullable=False),
    Column("shape", String(200), nullable=False),
    Column("batchable", Boolean, nullable=False, default=False),
    Column("idempotency_key", String(255)),
    Column("request_hash", String(64), nullable=False),
    Column("stage", String(16), nullable=False, default="waiting"),
    Column("step", Integer, nullable=False, default=0),
    Column("num_steps", Integer, nullable=False),
    Column("preview_step", Integer, nullable=False, default=0),
    Column("cancel_requested", Boolean, nullable=False, default=False),
    Column("worker", String(200)),
    Column("lease_until", Float),
    Column("strikes", Integer, nullable=False, default=0),
    Column("interruptions", Integer, nullable=False, default=0),
    Column("resumed_from", Integer, nullable=False, default=0),
    Column("note", Text),
    Column("error_code", String(64)),
    Column("error_message", Text),
    Column("file_id", String(64)),
    Column("result", _JSON),
    Column("remixed_from", String(64)),
    Column("callback_url", Text),
    UniqueConstraint("tenant", "idempotency_key", name="jobs_idempotency"),
)
Index("jobs_waiting", jobs.c.status, jobs.c.priority, jobs.c.created_at)
Index("jobs_of_tenant", jobs.c.tenant, jobs.c.created_at)
Index("jobs_leases", jobs.c.status, jobs.c.lease_until)

files = Table(
    "files",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("tenant", String(100), nullable=False),
    Column("job_id", String(64)),
    Column("purpose", String(32), nullable=False),
    Column("kind", String(16), nullable=False),  # "image" or "video"
    Column("name", String(255), nullable=False),
    Column("bytes", BigInteger, nullable=False),  # in all its forms
    Column("sha256", String(64), nullable=False),
    Column("width", Integer),
    Column("height", Integer),
    Column("adjusted", _JSON),
    Column("created_at", Float, nullable=False),
    Column("held_until", Float, nullable=False, default=0.0),
)
Index("files_by_age", files.c.created_at)
Index("files_of_job", files.c.job_id)

callbacks = Table(
    "callbacks",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("job_id", String(64), nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("url", Text, nullable=False),
    Column("payload", _JSON, nullable=False),
    Column("state", String(16), nullable=False, default="waiting"),  # waiting, delivered, given up
    Column("created_at", Float, nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("next_attempt_at", Float, nullable=False),
    Column("lease_until", Float, nullable=False, default=0.0),
    Column("last_error", Text),
    UniqueConstraint("job_id", "sequence", name="callbacks_sequence"),
)
Index("callbacks_due", callbacks.c.state, callbacks.c.next_attempt_at)

workers = Table(
    "workers",
    metadata,
    Column("id", String(200), primary_key=True),
    Column("server", String(100), nullable=False),
    Column("state", String(16), nullable=False),  # loading, idle, running
    Column("started_at", Float, nullable=False),
    Column("seen_at", Float, nullable=False),
    Column("details", _JSON, nullable=False),
)

timings = Table(
    "timings",
    metadata,
    Column("shape", String(200), primary_key=True),
    Column("samples", Integer, nullable=False),
    Column("step_seconds", Float, nullable=False),
    Column("rest_seconds", Float, nullable=False),
    Column("peak_bytes", BigInteger, nullable=False),
)

facts = Table("facts", metadata, Column("name", String(64), primary_key=True), Column("value", Text, nullable=False))


class epoch(FunctionElement):
    """Seconds since 1970 by the clock of the database."""

    type = Float()
    inherit_cache = True


@compiles(epoch, "sqlite")
def _epoch_sqlite(element: Any, compiler: Any, **kw: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(epoch, "postgresql")
def _epoch_postgresql(element: Any, compiler: Any, **kw: Any) -> str:
    return "CAST(extract(epoch FROM clock_timestamp()) AS DOUBLE PRECISION)"


class Database:
    """Connections to one database.

    Args:
        url: SQLAlchemy URL of SQLite (a file) or PostgreSQL; "postgresql://" uses psycopg 3.

    Raises:
        ValueError: another kind of database, a driver that is missing, or tables of another version.
    """

    def __init__(self, url: str):
        if url.startswith(("postgresql://", "postgres://")):
            url = "postgresql+psycopg://" + url.split("://", 1)[1]
        if not url.startswith(("sqlite:///", "postgresql+psycopg://")):
            raise ValueError(f"`--database` must start with sqlite:/// or postgresql://, got {url.split(':', 1)[0]}.")
        self.is_sqlite = url.startswith("sqlite")
        options: dict[str, Any]
        if self.is_sqlite:
            options = {"connect_args": {"timeout": BUSY_SECONDS}, "pool_size": 10, "max_overflow": 40}
            Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        else:  # a server has 100 connections unless told otherwise, and several of us share them
            options = {"pool_size": 5, "max_overflow": 15, "pool_pre_ping": True}
            options["connect_args"] = {"connect_timeout": 10, "tcp_user_timeout": 1000 * BUSY_SECONDS}
        try:
            self.engine: Engine = create_engine(
                url,
                json_serializer=lambda value: json.dumps(value, ensure_ascii=False, allow_nan=False),
                **options,
            )
        except ModuleNotFoundError as error:
            raise ValueError(
                f"`--database` needs {error.name} for PostgreSQL; install it with pip install 'videogen-moe[postgresql]'."
            ) from None
        if self.is_sqlite:
            event.listen(self.engine, "connect", _configure_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)
        snapshot = {} if self.is_sqlite else {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        self._readers = self.engine.execution_options(**{_READER: True}, **snapshot)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection for one consistent look."""
        with self._readers.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction: committed as a whole, or nothing of it when an exception leaves the block."""
        with self.engine.begin() as connection:
            yield connection

    def create(self) -> None:
        """Make the tables that are missing; several servers may do so at once."""
        try:
            metadata.create_all(self.engine)
        except DBAPIError:  # another server was faster
            metadata.create_all(self.engine)
        found = self.fact("schema", SCHEMA_VERSION)
        if found != SCHEMA_VERSION:
            raise ValueError(
                f"`--database` must hold tables of version {SCHEMA_VERSION}, got {found}; use another database, "
                "or the version of videogen that made it."
            )

    def fact(self, name: str, default: str) -> str:
        """The value kept under `name`; the first to ask sets it to `default`."""
        query = select(facts.c.value).where(facts.c.name == name)
        with self.read() as connection:
            found = connection.scalar(query)
        if found is None:
            try:
                with self.write() as connection:
                    connection.execute(insert(facts).values(name=name, value=default))
                return default
            except IntegrityError:
                with self.read() as connection:
                    found = connection.scalar(query)
        assert found is not None
        return found

    def secret(self) -> bytes:
        """The key that signs download links, the same for all servers on this database."""
        return bytes.fromhex(self.fact("secret", secrets.token_hex(32)))

    def now(self) -> float:
        """Seconds since 1970 by the clock of the database."""
        with self.read() as connection:
            return float(connection.scalar(select(epoch())) or 0.0)

    def close(self) -> None:
        self.engine.dispose()


def _configure_sqlite(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # transactions are begun below, not by the driver's guess
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute(f"PRAGMA busy_timeout={BUSY_SECONDS * 1000}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # A writer takes the lock at once: one that upgraded from reading could be refused instead of waiting.
    reader = connection.get_execution_options().get(_READER)
    connection.exec_driver_sql("BEGIN" if reader else "BEGIN IMMEDIATE")
