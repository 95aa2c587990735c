"""The settings from all their places, with where each comes from, or everything that is wrong with them."""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path

import msgspec
from pydantic import ValidationError
from pydantic_settings import EnvSettingsSource, TomlConfigSettingsSource

from runctl_controller.settings.masks import holds_password, mask
from runctl_controller.settings.model import Settings
from runctl_controller.settings.places import ENVIRONMENT, FLAG, PREFIX, Places
from runctl_controller.settings.schema import Said
from runctl_shared.errors import UsageError

KEYS = Settings.__struct_fields__
_PATHS = ("state_dir", "checkpoints", "bus_token_key")


class Resolved(msgspec.Struct, frozen=True, kw_only=True):
    """By key, where the value comes from: `origins` the path of a file, FLAG or ENVIRONMENT (none for a
    default), `sources` the same for people. `files`: those that were read."""

    settings: Settings
    origins: dict[str, str]
    sources: dict[str, str]
    files: tuple[str, ...]


class Problem(msgspec.Struct, frozen=True):
    """Something wrong, `where` it stands, and its mend."""

    where: str
    what: str
    mend: str


class Place(msgspec.Struct, kw_only=True):
    """One place and what it says. Relative paths are relative to `folder`."""

    origin: str
    folder: str
    said: dict[str, object]
    mine: bool = False
    problems: list[Problem] = []

    @property
    def shown(self) -> str:
        """The origin for people; a path may hold anything."""
        return self.origin if self.origin.isprintable() else repr(self.origin)

    def complain(self, where: str, what: str, mend: str) -> None:
        self.problems.append(Problem(where, mask(what), mend))

    def short(self, key: str) -> str:
        """How people write `key` in this place."""
        if self.origin == ENVIRONMENT:
            return key if key.startswith(PREFIX) else PREFIX + key.upper()
        if self.origin == FLAG:
            return "--" + key.replace("_", "-")
        return key if key.isidentifier() else repr(key)

    def name(self, key: str) -> str:
        """The same, with the file that it stands in."""
        short = self.short(key)
        return short if self.origin in (FLAG, ENVIRONMENT) else f"{self.shown}, {short}"

    def source(self, key: str) -> str:
        """Where the value of `key` comes from."""
        if self.origin == ENVIRONMENT:
            return f"environment {self.short(key)}"
        return f"user file {self.shown}" if self.mine else self.shown


def resolve(places: Places, flags: Mapping[str, object]) -> Resolved:
    """Raises one UsageError that lists everything that is wrong, in all places."""
    files = [_file(places.project_file)] if places.project_file else []
    if os.path.lexists(places.user_file):
        files.append(_file(places.user_file, mine=True))
    found = [_flags(places, flags), _environment(places), *files]
    problems: list[Problem] = []
    values: dict[str, object] = {}
    origins: dict[str, str] = {}
    sources = dict.fromkeys(KEYS, "default")
    for place in found:
        for key, value in _checked(place).items():
            if key not in values:
                values[key], origins[key], sources[key] = value, place.origin, place.source(key)
        problems += place.problems
    if problems:
        raise _refusal(problems)
    settings = msgspec.convert({"state_dir": places.state_dir} | values, Settings)
    if settings.lease <= settings.heartbeat:
        told = [f"{key} ({sources[key]})" for key in ("lease", "heartbeat")]
        what = f"{told[0]} is not longer than {told[1]}: machines would end while all is well."
        raise UsageError(what, "Make it several times as long.")
    files_read = tuple(place.shown for place in files)
    return Resolved(settings=settings, origins=origins, sources=sources, files=files_read)


def _refusal(problems: list[Problem]) -> UsageError:
    if len(problems) == 1:
        return UsageError(f"{problems[0].where}: {problems[0].what}", problems[0].mend)
    lines = [f"  {problem.where}: {problem.what} {problem.mend}" for problem in problems]
    return UsageError("\n".join([f"{len(problems)} settings are wrong:", *lines]))


def _flags(places: Places, flags: Mapping[str, object]) -> Place:
    said = {key: value for key, value in flags.items() if value is not None}
    return Place(origin=FLAG, folder=places.cwd, said=said)


def _environment(places: Places) -> Place:
    # Not case-sensitive: the keys are in small letters, their variables in capitals and only so.
    found = EnvSettingsSource(Said, case_sensitive=False)()
    known = {PREFIX + key.upper(): key for key in KEYS}
    said = {known.get(name, name): found.get(known.get(name, ""), "") for name in places.variables}
    return Place(origin=ENVIRONMENT, folder=places.cwd, said=said)


def _file(path: str, *, mine: bool = False) -> Place:
    place = Place(origin=path, folder=os.path.dirname(path), said={}, mine=mine)
    shown = place.shown
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            place.complain(shown, "It is not a file.", "Move it away.")
            return place
        place.said = dict(TomlConfigSettingsSource(Said, Path(path))())
    except OSError as error:
        place.complain(
            shown, f"It cannot be read: {error.strerror}.", "Mend its permissions, or move it away."
        )
        return place
    except UnicodeDecodeError:
        place.complain(shown, "It is not text in UTF-8.", "Save it as such.")
        return place
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        place.problems.append(_syntax(shown, error, path))
        return place
    others_read = found.st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    for key, value in place.said.items():
        if others_read and holds_password(value):
            mend = f"Keep them from it: chmod 600 {shown}"
            place.complain(place.name(key), "It holds a password, and others can read the file.", mend)
    return place


def _syntax(shown: str, error: Exception, path: str) -> Problem:
    """Where and why: the parser names line and column, but not at the end of the file."""
    what, _, where = str(error).partition(" (at ")
    position = re.search(r"line (\d+), column (\d+)", where)
    if position:
        line, column = int(position[1]), int(position[2])
    else:
        lines = Path(path).read_text("utf-8", "replace").rstrip("\n").split("\n")
        line, column = len(lines), len(lines[-1]) + 1
    mend = 'Write it like project = "cats".'
    return Problem(f"{shown}, line {line}, column {column}", f"This is not TOML: {what}.", mend)


def _checked(place: Place) -> dict[str, object]:
    """The good values of `place`; everything else goes to its problems."""
    known: dict[str, object] = {}
    for key, value in place.said.items():
        if key in KEYS:
            known[key] = _located(value, place.folder) if key in _PATHS else value
        else:
            _unknown(place, key)
    try:
        said = Said.model_validate(known)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            key = str(detail["loc"][0])
            said_of_it = detail.get("ctx", {})
            place.complain(place.name(key), said_of_it.get("what", detail["msg"]), said_of_it.get("mend", ""))
            known.pop(key, None)
        said = Said.model_validate(known)
    return {key: getattr(said, key) for key in known}


def _unknown(place: Place, key: str) -> None:
    plain = key.removeprefix(PREFIX).lower().replace("-", "_")
    close = get_close_matches(plain, KEYS, 1)
    if close:
        mend = f"Did you mean {place.short(close[0])}?"
    else:
        mend = f"Remove it. Known: {', '.join(place.short(known) for known in KEYS)}."
    place.complain(place.name(key), "There is no such setting.", mend)


def _located(value: object, folder: str) -> object:
    """`value` as an absolute path, if it is a path."""
    if not isinstance(value, str) or not value or "://" in value:
        return value
    path = os.path.expanduser(value)
    return path if path.startswith("~") else os.path.normpath(os.path.join(folder, path))
