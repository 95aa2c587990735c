"""Every failure of a command, as one or two lines for a person, or as JSON for a program."""

from __future__ import annotations

import errno
import os
import sys
from typing import Any

import click

READER_GONE = 141
"""128 + SIGPIPE."""


def guarded(command: click.Command, argv: list[str]) -> int:
    """Run the command; its exit code."""
    as_json = "--json" in (argv[: argv.index("--")] if "--" in argv else argv)
    try:
        result: Any = command.main(argv, prog_name="runctl", standalone_mode=False)
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except click.Abort:
        return 130
    except click.ClickException as error:
        return _say(as_json, "usage", _sentence(error.format_message()), _more(error), 2)
    except KeyboardInterrupt:
        return 130
    except SystemExit:
        # How click tells of a BrokenPipeError: whoever read our output has gone. No reason to complain.
        return READER_GONE
    except Exception as error:
        return _failed(as_json, error)
    return result if isinstance(result, int) else 0


def _sentence(text: str) -> str:
    """Click's own messages, as a sentence each."""
    return text if text.endswith((".", "?", ")")) else f"{text}."


def _more(error: click.ClickException) -> str:
    ctx = error.ctx if isinstance(error, click.UsageError) else None
    return "" if ctx is None else f"`{ctx.command_path} --help` lists what there is."


def _failed(as_json: bool, error: Exception) -> int:
    from runctl_shared.errors import RunctlError

    if isinstance(error, RunctlError):
        return _say(as_json, error.code, error.what, error.mend, error.exit_code)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EIO, errno.EBADF):
        return _say(as_json, "error", f"The output cannot be written: {error.strerror}.", "", 125)
    if os.environ.get("RUNCTL_DEBUG"):
        raise error
    what = f"runctl failed, and this is a defect: {type(error).__name__}: {error}"
    return _say(as_json, "error", what, "Set RUNCTL_DEBUG=1 and try again to see where.", 125)


def _say(as_json: bool, code: str, what: str, mend: str, exit_code: int) -> int:
    from runctl_controller.cli.output import clean

    if as_json:
        import json

        text = json.dumps({"error": {"code": code, "what": what, "mend": mend}})
    else:
        lines = [*what.split("\n"), *([f"        {mend}"] if mend else [])]
        text = "runctl: " + "\n".join(clean(line) for line in lines)
    print(text, file=sys.stderr)
    return exit_code
