"""What happened, for clients: pages out of the story of one run, or of all."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

import msgspec

from runctl_controller.service.naming import named
from runctl_controller.service.views import story_view
from runctl_controller.store.port import Told, Transaction
from runctl_shared.messages.replies import EventList, EventView
from runctl_shared.messages.requests import ListEvents

MOST_EVENTS = 1000
MOST_BYTES = 512 * 1024
"""Of one reply: with its envelope it must fit into a message."""
_ALL = 2**62


def list_events(tx: Transaction, body: ListEvents) -> EventList:
    """Raises NotFound when there is no such run."""
    run = None if body.run is None else named(tx, body.run).run.id
    limit = max(1, min(body.limit, MOST_EVENTS))
    if body.after is not None:
        found = tx.told_after(body.after, limit, run)
        events = _fitting(found)
        whole = len(events) == len(found) < limit
        through = tx.newest_told() if whole else events[-1].story.number
        return EventList(events=tuple(events), run=run or "", through=through, more=not whole)
    found = tx.told_before(_ALL if body.before is None else body.before, limit, run)
    recent = list(takewhile(lambda told: told.item.at >= body.since, found))
    events = _fitting(recent)
    more = len(recent) == limit or len(events) < len(recent)
    newest = tx.newest_told()
    return EventList(events=tuple(reversed(events)), run=run or "", through=newest, more=more)


def _fitting(found: Sequence[Told]) -> list[EventView]:
    """The first of them, as many as a message holds; of one that is too long by itself, not its data."""
    size, views = 0, list[EventView]()
    for told in found:
        view = EventView(run=told.run, name=told.name, story=story_view(told.item, told.number))
        long = len(msgspec.msgpack.encode(view))
        if long > MOST_BYTES:
            bare = msgspec.structs.replace(view.story, data={}, text=view.story.text[:2000])
            view, long = msgspec.structs.replace(view, story=bare), 0
        size += long
        if views and size > MOST_BYTES:
            break
        views.append(view)
    return views
