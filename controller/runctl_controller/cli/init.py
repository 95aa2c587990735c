"""``runctl init``: a settings file to begin with."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from runctl_controller.cli.options import json_option

if TYPE_CHECKING:
    from pathlib import Path

_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_RESUME = re.compile(rb"""["'](--resume[a-z_-]*)["']""")
_MOST_READ = 256 * 1024


@click.command()
@click.option("--force", is_flag=True, help="Write it over one that is there.")
@json_option
def init(force: bool, as_json: bool) -> int:
    """Write a .runctl.toml into this folder: every setting, its meaning, unit and default, commented out.

    If one training script is obvious (train.py, say), it tells how to start it.
    """
    import os
    from pathlib import Path

    from runctl_controller.cli.output import clean, emit
    from runctl_controller.settings.places import PROJECT_FILE, find
    from runctl_controller.settings.sample import sample

    places = find(os.environ)
    folder = Path(places.cwd)
    script = obvious_script(folder)
    start = f"runctl run -- {_runner(script)} {script}" if script else "runctl run -- python train.py"
    path = folder / PROJECT_FILE
    _write(path, sample(places.state_dir, _hints(folder, script), start), force)

    def tell() -> None:
        click.echo(clean(f"Wrote {path}: every setting is in it, commented out."))
        click.echo(f"Start the training: {start}" if script else f"Start a training: {start}")

    emit({"file": str(path), "script": script, "start": start}, as_json, tell)
    return 0


def obvious_script(folder: Path) -> str | None:
    """The name of the one script in `folder` that must be the training; None when none is, or several are."""
    try:
        names = sorted(p.name for p in folder.iterdir() if _PLAIN.fullmatch(p.name) and p.is_file())
    except OSError:
        return None
    scripts = [name for name in names if name.endswith((".py", ".sh"))]
    for wanted in (
        r"train\.(py|sh)",
        r"train(ing|er)?[_-].*|.*[_-]train(ing)?\.(py|sh)|training\.(py|sh)",
        r"main\.py",
    ):
        found = [name for name in scripts if re.fullmatch(wanted, name)]
        if found:
            return found[0] if len(found) == 1 else None
    return None


def _runner(script: str) -> str:
    return "python" if script.endswith(".py") else "bash"


def _hints(folder: Path, script: str | None) -> dict[str, str]:
    """What the script gives away of itself."""
    if script is None:
        return {}
    try:
        with (folder / script).open("rb") as file:
            found = _RESUME.search(file.read(_MOST_READ))
    except OSError:
        return {}
    if found is None:
        return {}
    option = found[1].decode()
    return {"resume_arg": f'{script} seems to take {option}; then this is: "{option} {{path}}"'}


def _write(path: Path, text: str, force: bool) -> None:
    """Never half, and never over another one without `force`."""
    import os

    from runctl_shared.errors import RefusedByGuard, UsageError

    try:
        if not force:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
            return
        fresh = path.with_name(f"{path.name}.new-{os.getpid()}")
        try:
            with fresh.open("x", encoding="utf-8") as file:
                file.write(text)
            os.replace(fresh, path)
        finally:
            fresh.unlink(missing_ok=True)
    except FileExistsError:
        raise RefusedByGuard(
            f"There is a {path.name} in {path.parent} already.", "Use --force to write over it."
        ) from None
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written: {error.strerror}.", "Mend that, or go to another folder."
        ) from None
