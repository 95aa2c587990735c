"""Names of tables and columns, for queries. Types, keys and constraints are the migrations'."""

from __future__ import annotations

from sqlalchemy import TableClause, column, table


def _table(name: str, columns: str) -> TableClause:
    return table(name, *(column(each) for each in columns.split()))


meta = _table("meta", "name value")
leadership = _table("leadership", "id epoch pid since seconds renewals")
runs = _table("runs", "id name project state created_at is_open is_busy spec data")
attempts = _table("attempts", "run number agent state trains data")
machines = _table("machines", "id run position attempt provider token state launch_order data")
intervals = _table("intervals", "run position machine attempt used_for began ended price")
outbox = _table("outbox", "id run kind data")
timers = _table("timers", "run key at")
story = _table("story", "id run at attempt kind actor data")
beats = _table("beats", "agent at data")

ALL = (meta, leadership, runs, attempts, machines, intervals, outbox, timers, story, beats)
