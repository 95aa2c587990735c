"""The store in a database file: opening it, serial transactions, who may write."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from sqlalchemy import ColumnClause, Connection, bindparam, insert, literal_column, select, update
from sqlalchemy.exc import DBAPIError

from runctl_controller.core.leadership import Leadership
from runctl_controller.store.port import Store, Superseded, superseded
from runctl_controller.store.sql import sqlite
from runctl_controller.store.sql.migrations import migrate
from runctl_controller.store.sql.tables import leadership, meta
from runctl_controller.store.sql.transaction import SqlTransaction
from runctl_shared.draw import new_id
from runctl_shared.errors import StoreUnusable

_GET = select(meta.c.value).where(meta.c.name == bindparam("of_name"))
_ONE: ColumnClause[int] = literal_column("1")  # the only row there is
_LEADS = select(*(leadership.c[name] for name in Leadership.__struct_fields__)).where(leadership.c.id == _ONE)
_LEAD = update(leadership).where(leadership.c.id == _ONE)
_RENEW = _LEAD.values(renewals=leadership.c.renewals + 1)
_SCHEME = "sqlite:///"


class SqlStore:
    """See Store. `url` is sqlite:///PATH; the file is made (mode 600) if need be.

    Any thread may ask for a transaction; they take turns on the one connection. A thread must end its
    transaction before it begins the next.
    """

    def __init__(self, url: str) -> None:
        self._path = _path(url)
        # Guards the connection, and what is below it.
        self._turn = threading.Lock()
        self._holder: int | None = None
        self._epoch: int | None = None
        sqlite.prepare(self._path)
        self._file = _identity(self._path)
        with self._understood():
            self._db = sqlite.engine(self._path).connect()
            try:
                migrate(self._db)
            except BaseException:
                self._db.close()
                raise

    @contextmanager
    def transaction(self) -> Iterator[SqlTransaction]:
        with self._leading() as db:
            yield SqlTransaction(db)

    def take_over(
        self,
        *,
        pid: int = 0,
        now: float = 0.0,
        seconds: float = 0.0,
        instead_of: Leadership | None = None,
    ) -> Leadership:
        with self._begun() as db:
            known = _leads(db)
            if instead_of is not None and known != instead_of:
                raise superseded(known)
            mine = Leadership(epoch=known.epoch + 1, pid=pid, since=now, seconds=seconds)
            db.execute(_LEAD, msgspec.structs.asdict(mine))
        self._epoch = mine.epoch
        return mine

    def renew(self) -> None:
        with self._leading() as db:
            db.execute(_RENEW)

    def leadership(self) -> Leadership | None:
        return leadership_in(self._path)

    def installation(self) -> str:
        with self._begun() as db:
            known = _get(db, "installation")
            if known is None:
                known = new_id("inst")
                db.execute(insert(meta), {"name": "installation", "value": known})
        return known

    def close(self) -> None:
        with self._turn, self._understood():
            self._db.close()

    @contextmanager
    def _leading(self) -> Iterator[Connection]:
        """A transaction in which nobody else can have become the leader. (Who never took over only looks.)"""
        if _identity(self._path) != self._file:
            # What SQLite still holds is a file without a name: whatever goes into it is lost.
            raise Superseded(
                f"The state file {self._path} was removed, or another was put in its place.",
                "`runctl import` brings runs back from the store of their checkpoints.",
            )
        with self._begun() as db:
            if self._epoch is not None and self._epoch != (now := _leads(db)).epoch:
                raise superseded(now)
            yield db

    @contextmanager
    def _begun(self) -> Iterator[Connection]:
        """The connection, in a transaction of this thread alone."""
        me = threading.get_ident()
        if self._holder == me:
            raise RuntimeError("a transaction within a transaction")
        with self._turn:
            if self._db.closed:
                raise StoreUnusable("The state is closed: this controller is ending.", "Start it again.")
            self._holder = me
            try:
                with self._understood(), self._db.begin():
                    yield self._db
            finally:
                self._holder = None

    @contextmanager
    def _understood(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            raise sqlite.unusable(error.orig, self._path) from error


def leadership_in(path: Path) -> Leadership | None:
    """See Store.leadership. Also of a file that is not open here, and changes nothing in it."""
    row = sqlite.glance(path, str(_LEADS))
    return None if row is None else Leadership(**dict(zip(Leadership.__struct_fields__, row, strict=True)))


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file that is; None when it is not there."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _leads(db: Connection) -> Leadership:
    return Leadership(**db.execute(_LEADS).mappings().one())


def _get(db: Connection, name: str) -> str | None:
    found: str | None = db.execute(_GET, {"of_name": name}).scalar()
    return found


def _path(url: str) -> Path:
    # By hand: a path may hold characters that mean something in a URL.
    path = url.removeprefix(_SCHEME)
    if path == url or not path:
        scheme = url.partition(":")[0]
        raise StoreUnusable(
            f"A state cannot be kept at {scheme!r}.", f"Only {_SCHEME}PATH is supported so far."
        )
    return Path(path)


def _is_a_store(store: SqlStore) -> Store:
    return store  # for the type checker alone
