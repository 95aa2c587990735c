"""The tables of the embedded bus, and what happens in them, always within the caller's transaction.

Queues are names: ``events``, ``heartbeats``, ``requests``, ``commands.<agent>``, and one per listener or
requester, ``feed.<consumer>`` and ``reply.<consumer>``, which go when their consumer goes. The id of a
message is its place in the queue and never changes, so what is handed back keeps its place. Of several
consumers of a queue the one that came first is active.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import NamedTuple

from runctl_shared.bus.port import DELIVERY_LIMIT, DeadLetter, Unroutable

VERSION = 1
APPLICATION = 0x72756E63
FEED_LIMIT = 1000
"""Messages that wait for one listener; beyond it the oldest are dropped."""
DEAD_LIMIT = 10_000
"""Dead letters kept; beyond it the oldest are dropped."""

WAITING = """CREATE INDEX IF NOT EXISTS waiting ON messages (sender, message_id)
    WHERE queue = 'events' AND owner IS NULL"""
"""Made at each opening: files of before lack it, and without it nothing is wrong but the time it takes."""

SCHEMA = f"""
CREATE TABLE links (id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE agents (id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE consumers (place INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL,
    link TEXT NOT NULL, queue TEXT NOT NULL);
CREATE INDEX consumers_of_queue ON consumers (queue, place);
CREATE TABLE messages (id INTEGER PRIMARY KEY AUTOINCREMENT, queue TEXT NOT NULL, sender TEXT NOT NULL,
    topic TEXT NOT NULL, message_id TEXT NOT NULL, reply_to TEXT NOT NULL, expires_at REAL,
    deliveries INTEGER NOT NULL DEFAULT 0, owner TEXT, body BLOB NOT NULL);
CREATE INDEX ready ON messages (queue, id) WHERE owner IS NULL;
CREATE INDEX owned ON messages (owner) WHERE owner IS NOT NULL;
CREATE INDEX expiring ON messages (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX latest ON messages (sender, topic) WHERE queue = 'heartbeats';
{WAITING};
CREATE TABLE dead (id INTEGER PRIMARY KEY AUTOINCREMENT, body BLOB NOT NULL, source TEXT NOT NULL,
    reason TEXT NOT NULL, message_id TEXT NOT NULL);
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {VERSION};
"""

_PUT_ASIDE = """INSERT INTO dead (body, source, reason, message_id)
    SELECT body, substr(queue, 1, instr(queue || '.', '.') - 1), ?, message_id FROM messages WHERE """


class Message(NamedTuple):
    """A message on its way into a queue. `expires_at` is wall time: one machine, one clock."""

    queue: str
    sender: str
    topic: str
    message_id: str
    body: bytes
    expires_at: float | None = None
    reply_to: str = ""


class Row(NamedTuple):
    """A message on its way out."""

    id: int
    sender: str
    topic: str
    message_id: str
    reply_to: str
    deliveries: int
    body: bytes


class Store:
    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self.touched: set[str] = set()
        """Queues in which something became ready, for whoever rings the bells; emptied by him."""

    # ------------------------------------------------------------ in

    def put(self, message: Message) -> None:
        self._db.execute(
            "INSERT INTO messages (queue, sender, topic, message_id, body, expires_at, reply_to)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            message,
        )
        self.touched.add(message.queue)

    def put_event(self, message: Message) -> None:
        """Nothing to do while the same message waits unread: its sender repeats what nobody answers, and
        where nobody reads, repetitions would fill the disk."""
        same = (
            "SELECT 1 FROM messages WHERE queue = 'events' AND owner IS NULL AND expires_at IS NULL"
            " AND sender = ? AND message_id = ?"
        )
        if self._db.execute(same, (message.sender, message.message_id)).fetchone() is None:
            self.put(message)

    def put_command(self, agent: str, message: Message) -> None:
        """Raises Unroutable, having written nothing."""
        if self._db.execute("SELECT 1 FROM agents WHERE id = ?", (agent,)).fetchone() is None:
            raise Unroutable(f"There is no queue for commands to {agent}.")
        self.put(message)

    def put_heartbeat(self, message: Message) -> None:
        """In place of the one before, if nobody has read that yet."""
        self._db.execute(
            "DELETE FROM messages WHERE queue = 'heartbeats' AND sender = ? AND topic = ? AND owner IS NULL",
            (message.sender, message.topic),
        )
        self.put(message)

    def put_feed(self, message: Message) -> None:
        """A copy for everyone who listens now."""
        listening = "SELECT queue FROM consumers WHERE queue > 'feed.' AND queue < 'feed/'"
        for (queue,) in self._db.execute(listening).fetchall():
            self.put(message._replace(queue=queue))

    def put_reply(self, message: Message) -> None:
        """Dropped when the requester has gone."""
        if self.active(message.queue) is not None:
            self.put(message)

    # ------------------------------------------------------------ out

    def take(self, consumer: str, queue: str, room: int) -> list[Row]:
        """Up to `room` messages, which belong to `consumer` until settled."""
        rows = [
            Row(*row)
            for row in self._db.execute(
                "SELECT id, sender, topic, message_id, reply_to, deliveries + 1, body FROM messages"
                " WHERE queue = ? AND owner IS NULL ORDER BY id LIMIT ?",
                (queue, room),
            )
        ]
        if rows:
            self._db.execute(
                "UPDATE messages SET owner = ?, deliveries = deliveries + 1"
                " WHERE queue = ? AND owner IS NULL AND id <= ?",
                (consumer, queue, rows[-1].id),
            )
        return rows

    # Whoever no longer owns a message cannot settle it: it may be in other hands by now.

    def ack(self, consumer: str, message: int) -> None:
        self._db.execute("DELETE FROM messages WHERE id = ? AND owner = ?", (message, consumer))

    def put_aside(self, consumer: str, message: int, reason: str) -> None:
        self._put_aside("id = ? AND owner = ?", (message, consumer), reason)

    def give_back(self, consumer: str, message: int | None = None) -> None:
        """Hand `message` out again, or all that `consumer` has; what came back too often is put aside."""
        which, values = (
            ("owner = ?", [consumer]) if message is None else ("owner = ? AND id = ?", [consumer, message])
        )
        self._put_aside(f"{which} AND deliveries >= {DELIVERY_LIMIT}", values, "delivery-limit")
        queues = self._db.execute(f"SELECT DISTINCT queue FROM messages WHERE {which}", values)  # noqa: S608 - constants
        self.touched.update(queue for (queue,) in queues.fetchall())
        self._db.execute(f"UPDATE messages SET owner = NULL WHERE {which}", values)  # noqa: S608 - constants

    def expire(self, now: float) -> None:
        """Drop what is too old and in nobody's hands; commands are put aside, since somebody gave them."""
        due = "expires_at <= ? AND owner IS NULL"
        if self._db.execute(f"SELECT 1 FROM messages WHERE {due} LIMIT 1", (now,)).fetchone():  # noqa: S608 - constant
            self._put_aside(f"{due} AND queue > 'commands.' AND queue < 'commands/'", (now,), "expired")
            self._db.execute(f"DELETE FROM messages WHERE {due}", (now,))  # noqa: S608 - constant

    def trim(self) -> None:
        """Keep what waits for slow listeners within bounds."""
        for queue in self.touched:
            if queue.startswith("feed."):
                self._db.execute(
                    "DELETE FROM messages WHERE queue = ?1 AND owner IS NULL AND id <= (SELECT id"
                    " FROM messages WHERE queue = ?1 AND owner IS NULL ORDER BY id DESC LIMIT 1 OFFSET ?2)",
                    (queue, FEED_LIMIT),
                )

    def dead_letters(self, limit: int) -> list[DeadLetter]:
        rows = self._db.execute(
            "SELECT body, source, reason, message_id FROM dead ORDER BY id LIMIT ?", (limit,)
        )
        return [DeadLetter(*row) for row in rows]

    def _put_aside(self, which: str, values: Iterable[object], reason: str) -> None:
        values = tuple(values)
        put = self._db.execute(
            f"{_PUT_ASIDE} {which} AND (queue IN ('events', 'requests') OR queue GLOB 'commands.*')"
            " ORDER BY id",
            (reason, *values),
        )
        if put.rowcount:
            self._db.execute("DELETE FROM dead WHERE id <= (SELECT max(id) FROM dead) - ?", (DEAD_LIMIT,))
        self._db.execute(f"DELETE FROM messages WHERE {which}", values)  # noqa: S608 - constants of this file

    # ------------------------------------------------------------ who is there

    def add_agent(self, agent: str) -> None:
        self._db.execute("INSERT OR IGNORE INTO agents VALUES (?)", (agent,))

    def remove_agent(self, agent: str) -> None:
        self._db.execute("DELETE FROM agents WHERE id = ?", (agent,))
        self._db.execute("DELETE FROM messages WHERE queue = ?", (f"commands.{agent}",))

    def add_link(self, link: str) -> None:
        self._db.execute("INSERT INTO links VALUES (?)", (link,))

    def has_link(self, link: str) -> bool:
        return self._db.execute("SELECT 1 FROM links WHERE id = ?", (link,)).fetchone() is not None

    def links(self) -> set[str]:
        return {link for (link,) in self._db.execute("SELECT id FROM links")}

    def drop_link(self, link: str) -> None:
        """A connection has ended or died: all that it held is free again."""
        for (consumer,) in self._db.execute("SELECT id FROM consumers WHERE link = ?", (link,)).fetchall():
            self.drop_consumer(consumer)
        self._db.execute("DELETE FROM links WHERE id = ?", (link,))

    def add_consumer(self, consumer: str, link: str, queue: str) -> None:
        self._db.execute("INSERT INTO consumers (id, link, queue) VALUES (?, ?, ?)", (consumer, link, queue))

    def drop_consumer(self, consumer: str) -> None:
        self.give_back(consumer)
        for (queue,) in self._db.execute("SELECT queue FROM consumers WHERE id = ?", (consumer,)).fetchall():
            self._db.execute("DELETE FROM consumers WHERE id = ?", (consumer,))
            if queue.endswith("." + consumer):
                self._db.execute("DELETE FROM messages WHERE queue = ?", (queue,))
            self.touched.add(queue)  # whoever is next in line is to know, even when nothing waits now

    def consumers(self, queue: str) -> list[str]:
        return [id for (id,) in self._db.execute("SELECT id FROM consumers WHERE queue = ?", (queue,))]

    def active(self, queue: str) -> tuple[str, str] | None:
        """The consumer whose turn it is at `queue`, and its link."""
        found: tuple[str, str] | None = self._db.execute(
            "SELECT id, link FROM consumers WHERE queue = ? ORDER BY place LIMIT 1", (queue,)
        ).fetchone()
        return found
