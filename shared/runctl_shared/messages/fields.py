"""Field types of the wire contract: what a value means, its unit, and the most that is accepted."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from runctl_shared.units import LONGEST

Seconds = Annotated[float, Meta(ge=0, le=LONGEST, description="a duration in seconds")]
Moment = Annotated[
    float, Meta(ge=0, le=1e12, description="UTC, seconds since 1970; for show, never compared")
]
Count = Annotated[int, Meta(ge=0, le=2**53, description="a whole number, not negative")]
Bytes = Annotated[int, Meta(ge=0, le=2**60, description="a size in bytes")]
Step = Annotated[int, Meta(ge=0, le=999_999_999_998, description="a training step, counted by the training")]
Attempt = Annotated[int, Meta(ge=0, le=99_999, description="the attempt's number, from 1; 0: none")]
Word = Annotated[str, Meta(max_length=200, description="a short text on one line")]
Sentence = Annotated[str, Meta(max_length=2000, description="a sentence for people")]
ExitCode = Annotated[int, Meta(ge=-(2**31), le=2**32, description="what a process ended with")]
Path = Annotated[str, Meta(max_length=4096, description="a path, relative where not said otherwise")]

# One message must not make more work than a message may: a sender chooses how many there are.
Words = Annotated[tuple[Word, ...], Meta(max_length=200, description="short texts")]
Sentences = Annotated[tuple[Sentence, ...], Meta(max_length=20, description="sentences for people")]
Counts = Annotated[tuple[Count, ...], Meta(max_length=1000, description="whole numbers, not negative")]
