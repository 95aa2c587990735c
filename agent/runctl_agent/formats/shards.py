"""Numbered parts of one thing: all of them belong to it, and so does the index that is written last.

Hugging Face's libraries write `model-00001-of-00200.safetensors` … and then `model.safetensors.index.json`,
TensorFlow `ckpt-7.data-00000-of-00002` … and then `ckpt-7.index`. Parts of other names are not judged:
whoever has made up his own may well write no index.
"""

from __future__ import annotations

import re

from runctl_agent.formats.base import COMPLETE, Entry, Verdict, incomplete

_PART = re.compile(r"(.+)-[0-9]{5}-of-([0-9]{5})(\.safetensors|\.bin|\.h5|\.msgpack)?", re.DOTALL)


def check_shards(entry: Entry) -> Verdict:
    """Whether each set of numbered parts in the folder `entry` is all there, with its index."""
    parts: dict[tuple[str, str, str, str], int] = {}
    indexed = set()
    for file in entry.files:
        folder, _, name = file.path.rpartition("/")
        found = _PART.fullmatch(name)
        if found and (found[3] or found[1].endswith(".data")):
            set_ = (folder, found[1], found[2], found[3] or "")
            parts[set_] = parts.get(set_, 0) + 1
        elif ".index" in name and file.size:
            indexed.add(folder)
    for (folder, stem, of, _), count in parts.items():
        if count < int(of):
            return incomplete(f"{stem[:80]}: {count} of its {int(of)} parts are there")
        if folder not in indexed:
            return incomplete(f"{stem[:80]}: the index of its {int(of)} parts is not there")
    return COMPLETE
