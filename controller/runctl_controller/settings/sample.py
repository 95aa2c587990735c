"""A settings file that says nothing yet, and explains everything: made from the schema."""

from __future__ import annotations

import json
import re
import textwrap

from runctl_controller import __version__
from runctl_controller.settings.model import Settings
from runctl_controller.settings.schema import Said

_WIDTH = 88
_HEAD = (
    "Settings of runctl, for this folder and those below it. Every setting is here with its default: take the"
    " # before one away to change it. A flag of the command line or a RUNCTL_ variable wins over this file,"
    " and this file over ~/.config/runctl/config.toml. `runctl config show` tells what is in force and why,"
    " `runctl config validate` whether all of it is right."
)


def sample(state_dir: str, hints: dict[str, str], start: str) -> str:
    """The text of the file. `state_dir`: the default of that setting here; `hints`: by key, a line to be said
    of it besides; `start`: the command that starts the training."""
    defaults = Settings(state_dir=state_dir)
    parts = [_comment(f"{_HEAD} (Written by runctl {__version__}.)"), f"# Start the training:  {start}"]
    for key in Settings.__struct_fields__:
        said = Said.model_fields[key].description or ""
        lines = [_comment(said), f"# {key} = {_toml(getattr(defaults, key))}"]
        if key in hints:
            lines.insert(1, _comment(hints[key]))
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _comment(text: str) -> str:
    lines = textwrap.wrap(text, _WIDTH, break_long_words=False, break_on_hyphens=False)
    return "\n".join(f"# {line}" for line in lines)


def _toml(value: object) -> str:
    """The value as one would write it; durations with their unit."""
    if value is None:
        return '""'
    if isinstance(value, float):
        return f'"{value:g}s"'
    # JSON's strings are TOML's, but for one character.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


_COMMENTED = re.compile(rf"^# ((?:{'|'.join(Settings.__struct_fields__)}) = )", re.MULTILINE)


def uncommented(text: str) -> str:
    """The file with every setting in force."""
    return _COMMENTED.sub(r"\1", text)
