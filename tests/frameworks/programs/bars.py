"""Prints a small training's progress in one of the forms that tqdm and rich have: `bars.py FORM`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator

from rich.progress import track
from tqdm import tqdm, trange


def plain() -> None:
    for _ in trange(60):
        time.sleep(0.02)


def postfix() -> None:
    bar = tqdm(range(1, 61), desc="Training", mininterval=0.3)
    for step in bar:
        time.sleep(0.02)
        bar.set_postfix(loss=1 / step, lr=1e-3, refresh=False)


def slow() -> None:
    bar = tqdm(range(1, 4), desc="steps")
    for step in bar:
        time.sleep(1.2)
        bar.set_postfix(loss=f"{1 / step:.3f}")


def samples() -> None:
    with tqdm(total=50_000, unit="samples", unit_scale=True, desc="train") as bar:
        for step in range(1, 51):
            time.sleep(0.02)
            bar.set_postfix(loss=1 / step, refresh=False)
            bar.update(1000)


def scaled() -> None:
    with tqdm(total=25_000, unit_scale=True) as bar:
        for step in range(1, 51):
            time.sleep(0.02)
            bar.set_postfix(loss=1 / step, refresh=False)
            bar.update(500)


def nested() -> None:
    for epoch in trange(1, 4, desc="Epochs"):
        bar = tqdm(range(1, 31), desc=f"Epoch {epoch}/3", leave=False, mininterval=0)
        for step in bar:
            time.sleep(0.01)
            bar.set_postfix(loss=1 / step, refresh=False)


def epochs() -> None:
    for epoch in range(1, 4):
        bar = tqdm(range(1, 31), desc=f"Epoch {epoch}")
        for step in bar:
            time.sleep(0.01)
            bar.set_postfix_str(f"loss={1 / step:.4f}", refresh=False)
        for _ in tqdm(range(20), desc="Validation"):
            time.sleep(0.01)


def unknown() -> None:
    def endless() -> Iterator[int]:
        yield from range(1, 61)

    bar = tqdm(endless(), desc="train")
    for step in bar:
        time.sleep(0.02)
        bar.set_postfix({"loss": 1 / step}, refresh=False)


def resumed() -> None:
    for _ in tqdm(range(30, 60), initial=30, total=60):
        time.sleep(0.02)


def among_lines() -> None:
    bar = trange(1, 61, ascii=True, ncols=60)
    for step in bar:
        time.sleep(0.02)
        if step % 20 == 0:
            tqdm.write(f"loss: {1 / step:.4f}")


def rich() -> None:
    for _ in track(range(40), description="Training"):
        time.sleep(0.03)


FORMS: dict[str, Callable[[], None]] = {
    form.__name__: form
    for form in (
        plain, postfix, slow, samples, scaled, nested, epochs, unknown, resumed, among_lines, rich,
    )
}  # fmt: skip

if __name__ == "__main__":
    FORMS[sys.argv[1]]()
