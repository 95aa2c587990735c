"""``runctl config``: show, validate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from runctl_controller.settings.resolve import Resolved


@click.group()
def config() -> None:
    """Show or check the settings.

    A flag wins over an environment variable (RUNCTL_ and the key in capitals), that over the nearest
    .runctl.toml in this folder or one above it, that over your own ~/.config/runctl/config.toml, and that
    over the default.
    """


@config.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(as_json: bool) -> None:
    """Show every setting, and where its value comes from. Passwords are masked."""
    from runctl_controller.cli.output import emit, table
    from runctl_controller.settings.load import explain

    found = explain()
    values = _values(found)
    document = {key: {"value": value, "source": found.sources[key]} for key, value in values.items()}
    rows = [(key, _written(key, value), found.sources[key]) for key, value in values.items()]
    emit(document, as_json, lambda: table(("key", "value", "where from"), rows))


@config.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def validate(as_json: bool) -> None:
    """Check the settings of every place; exit code 2 with everything that is wrong."""
    from runctl_controller.cli.output import clean, emit
    from runctl_controller.settings.load import explain

    files = list(explain().files)
    read = " and ".join(files) or "no file"
    document = {"valid": True, "files": files}
    emit(document, as_json, lambda: click.echo(clean(f"The settings are valid ({read} read).")))


def _values(found: Resolved) -> dict[str, object]:
    import msgspec

    from runctl_controller.settings.masks import mask

    values = msgspec.structs.asdict(found.settings)
    return {key: mask(value) if isinstance(value, str) else value for key, value in values.items()}


def _written(key: str, value: object) -> str:
    """As one would write it in a file."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:g}" if key == "max_hours" else f"{value:g}s"
    return str(value)
