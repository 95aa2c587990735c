"""Settings: which place wins, what is refused and how, and that a quick answer is never an old one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from runctl_controller.settings import resolve as resolving
from runctl_controller.settings.export import as_environment
from runctl_controller.settings.load import explain, load
from runctl_controller.settings.masks import mask
from runctl_controller.settings.model import Settings
from runctl_controller.settings.schema import Said
from runctl_shared.clock import SystemClock
from runctl_shared.errors import UsageError

BROKER = "amqps://me:hunter2@broker.example/"


class World:
    """A home, a project, and the folder in it where commands are given."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home = root / "home"
        self.user_file = self.home / ".config/runctl/config.toml"
        self.project_file = root / "project/.runctl.toml"
        self.here = root / "project/sub"
        self.cache = self.home / ".cache/runctl/settings.msgpack"
        self.user_file.parent.mkdir(parents=True)
        self.here.mkdir(parents=True)
        self.reads = 0
        self._count_reads(monkeypatch)

    def _count_reads(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real = resolving.resolve

        def counted(*args: object) -> object:
            self.reads += 1
            return real(*args)  # type: ignore[arg-type] # handed on as they came

        monkeypatch.setattr(resolving, "resolve", counted)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    for name in list(os.environ):
        if name.startswith(("RUNCTL_", "XDG_")):
            monkeypatch.delenv(name)
    made = World(tmp_path, monkeypatch)
    monkeypatch.setenv("HOME", str(made.home))
    monkeypatch.chdir(made.here)
    return made


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour from now: no file is too young to be trusted."""
    then = SystemClock().now() + 3600
    monkeypatch.setattr(SystemClock, "now", lambda self: then)


def refusal(flags: dict[str, object] | None = None) -> str:
    with pytest.raises(UsageError) as refused:
        load(flags)
    return str(refused.value)


def test_each_place_wins_over_the_next(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.user_file.write_text('project = "user"\nsignal = "SIGUSR1"\ngrace = "1m"\nidle = 7')
    world.project_file.write_text('project = "file"\nsignal = "SIGUSR2"\ngrace = "2m"')
    monkeypatch.setenv("RUNCTL_PROJECT", "variable")
    monkeypatch.setenv("RUNCTL_SIGNAL", "SIGINT")
    found = explain({"project": "flag", "grace": None})
    got = found.settings
    assert (got.project, got.signal, got.grace, got.idle, got.lease) == ("flag", "SIGINT", 120.0, 7.0, 900.0)
    assert [found.sources[key] for key in ("project", "signal", "grace", "idle", "lease")] == [
        "flag",
        "environment RUNCTL_SIGNAL",
        str(world.project_file),
        f"user file {world.user_file}",
        "default",
    ]


def test_every_setting_can_be_given_and_nothing_else() -> None:
    assert tuple(Said.model_fields) == Settings.__struct_fields__


def test_defaults_are_where_the_xdg_specification_puts_them(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load().state_dir == str(world.home / ".local/state/runctl")
    monkeypatch.setenv("XDG_STATE_HOME", "relative/is/ignored")
    assert load().state_dir == str(world.home / ".local/state/runctl")
    monkeypatch.setenv("XDG_STATE_HOME", str(world.home / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(world.home / "etc"))
    (world.home / "etc/runctl").mkdir(parents=True)
    (world.home / "etc/runctl/config.toml").write_text('project = "cats"')
    assert (load().state_dir, load().project) == (str(world.home / "state/runctl"), "cats")


def test_the_nearest_project_file_counts(world: World) -> None:
    world.project_file.write_text('project = "far"\nidle = 1')
    (world.here / ".runctl.toml").write_text('project = "near"')
    assert (load().project, load().idle) == ("near", 60.0)


def test_paths_are_relative_to_where_they_are_written(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.project_file.write_text('checkpoints = "../keep it"\nstate_dir = "state"')
    got = load()
    assert got.checkpoints == (world.project_file.parent.parent / "keep it").as_uri()
    assert got.state_dir == str(world.project_file.parent / "state")
    monkeypatch.setenv("RUNCTL_STATE_DIR", "state")
    monkeypatch.setenv("RUNCTL_CHECKPOINTS", "file:///mnt/ck")
    assert (load().state_dir, load().checkpoints) == (str(world.here / "state"), "file:///mnt/ck")
    assert load({"state_dir": "~/x"}).state_dir == str(world.home / "x")


def test_an_empty_value_takes_a_lesser_one_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.project_file.write_text('bus_url = "amqp://broker.example/"')
    monkeypatch.setenv("RUNCTL_BUS_URL", "")
    assert load().bus_url is None
    monkeypatch.setenv("RUNCTL_PROJECT", "")
    assert "RUNCTL_PROJECT: It is empty." in refusal()


def test_what_agents_and_tests_export_is_no_setting(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    internal = ["RUN", "ATTEMPT", "CHECKPOINT_DIR", "RESUME_FROM", "MACHINE", "MACHINE_DIR", "DEBUG"]
    for name in [*internal, "TEST_AMQP_URL", "SIM_X"]:
        monkeypatch.setenv(f"RUNCTL_{name}", "anything")
    assert load() == Settings(state_dir=load().state_dir)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('grace = "soon"', "'soon' is not a duration. Write it like 90s"),
        ("grace = -1", "A duration cannot be negative."),
        ("heartbeat = 0", "It cannot be zero."),
        ("idle = inf", "inf is not a number."),
        ("max_restarts = -1", "The number of restarts is negative. Use 0 for none."),
        ("max_restarts = 1.5", "1.5 is not a whole number."),
        ("max_restarts = true", "true is not a number."),
        ("max_restarts = 99999999999999999999", "too large"),
        ("max_hours = 0", "The time limit is not positive."),
        ('project = "My Cats"', "'My Cats' cannot be the name of a project."),
        ("project = 3", "3 is not text. Write it in quotes."),
        ('signal = "SIGKILL"', "'SIGKILL' is not a signal that a training can catch."),
        ('resume_arg = "--resume"', "does not say where the path goes."),
        ('log_level = "loud"', "'loud' is not a log level. Known: debug,"),
        ('provider = "moon"', "'moon' is not a provider. Known: local."),
        ('checkpoints = "ftp://x"', "Checkpoints cannot be kept at ftp:// URLs"),
        ('checkpoints = "~nobody-here/x"', "names the home of an unknown user"),
        ('state_dir = "~nobody-here/x"', "names the home of an unknown user"),
        ('state_dir = "a\\u0000b"', "holds a control character"),
        ('bus_url = "http://x/"', "It is not the URL of a bus. Use amqps://USER:PASSWORD@"),
        ('bus_url = "sqlite://bus.db"', "It is not the URL of a bus."),
        ('bus_url = "amqp://h:port/"', "The broker's URL cannot be read."),
        ("bus_url = [1]", "It is not text."),
        ('projct = "x"', "There is no such setting. Did you mean project?"),
        ("_cli_parse_args = true", "There is no such setting. Remove it. Known: state_dir,"),
        ("[run]", "run: There is no such setting."),
        ('"\\u001b[2J" = 1', "'\\x1b[2J': There is no such setting."),
        ("lease = 5", "is not longer than heartbeat (default)"),
    ],
)
def test_a_wrong_line_is_refused_with_its_mend(world: World, line: str, says: str) -> None:
    world.project_file.write_text(line)
    told = refusal()
    assert says in told
    assert str(world.project_file) in told
    assert "\x1b" not in told


def test_everything_wrong_is_told_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.user_file.write_text('grace = "soon"\nnonsens = 1')
    world.project_file.write_text('grace = "2m"\nproject = "My Cats"')  # hides the wrong grace of the user
    monkeypatch.setenv("RUNCTL_BUS", "x")
    monkeypatch.setenv("RUNCTL_idle", "3")
    monkeypatch.setenv("RUNCTL_MAX_HOURS", "never")
    told = refusal({"signal": "SIGSTOP"}).splitlines()
    assert told[0] == "7 settings are wrong:"
    starts = ["--signal: ", "RUNCTL_BUS: ", "RUNCTL_idle: ", "RUNCTL_MAX_HOURS: "]
    starts += [f"{world.project_file}, project: ", f"{world.user_file}, nonsens: "]
    starts += [f"{world.user_file}, grace: "]
    assert [line.strip()[: len(start)] for line, start in zip(told[1:], starts, strict=True)] == starts
    assert "Did you mean RUNCTL_BUS_URL?" in told[2]
    assert "Did you mean RUNCTL_IDLE?" in told[3]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"idle = 1\nproject = ]\n", ", line 2, column 11: This is not TOML: Invalid value."),
        (b"idle = 1\nproject = ", ", line 2, column 11: This is not TOML"),
        (b"project = '\xff'", ": It is not text in UTF-8."),
        (b"x = " + b"[" * 100_000, ", line 1, column 100005: This is not TOML"),
    ],
)
def test_a_file_that_is_not_toml(world: World, content: bytes, says: str) -> None:
    world.project_file.write_bytes(content)
    assert f"{world.project_file}{says}" in refusal()


def test_files_that_cannot_be_read(world: World) -> None:
    world.project_file.mkdir()
    world.user_file.symlink_to(world.user_file)
    told = refusal()
    assert f"{world.project_file}: It is not a file." in told
    assert f"{world.user_file}: It cannot be read: Too many levels of symbolic links." in told


def test_a_working_directory_that_is_gone(world: World) -> None:
    world.here.rmdir()
    assert "The working directory does not exist any more." in refusal()


def test_a_password_in_a_file_that_others_can_read(world: World) -> None:
    world.project_file.write_text(f'bus_url = "{BROKER}"')
    world.project_file.chmod(0o640)
    assert f"chmod 600 {world.project_file}" in refusal()
    assert "hunter2" not in refusal()
    world.project_file.chmod(0o600)
    assert load().bus_url == BROKER


@pytest.mark.parametrize("key", ["project", "signal", "checkpoints", "bus_url", "grace"])
def test_no_refusal_shows_a_password(world: World, key: str) -> None:
    assert "hunter2" not in refusal({key: "xmqp://me:hunter2@h:x/"})
    assert "hunter2" not in refusal({key: "xmqp://me:a/b@hunter2@h/"})


@pytest.mark.parametrize(
    ("shown", "masked"),
    [
        ("amqp://u:p@h/v", "amqp://u:***@h/v"),
        ("amqp://u:p@ss/w@h", "amqp://u:***@h"),
        ("amqp://h:5672/v", "amqp://h:5672/v"),
        ("x://h/?Password=p&heartbeat=3", "x://h/?Password=***&heartbeat=3"),
        ("plain", "plain"),
    ],
)
def test_masks(shown: str, masked: str) -> None:
    assert mask(shown) == masked


def test_a_process_elsewhere_gets_the_same_settings(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.user_file.write_text('bus_url = "amqp://elsewhere.example/"\nmax_hours = 0.5\ngrace = "250ms"')
    settings = load({"bus_url": "", "project": "cats"})
    for name, text in as_environment(settings).items():
        monkeypatch.setenv(name, text)
    monkeypatch.chdir("/")
    assert load() == settings


# The cache.


def test_a_hit_imports_no_pydantic(world: World, later: None) -> None:
    world.project_file.write_text('project = "cats"')
    load()
    code = (
        "import sys\nfrom runctl_controller.settings.load import load\nprint(load().project)\n"
        "print([m for m in ('pydantic', 'pydantic_settings', 'tomllib', 'pika') if m in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert said.split("\n")[:2] == ["cats", "[]"]


CHANGES: dict[str, Callable[[World, pytest.MonkeyPatch], object]] = {
    "project file edited": lambda w, m: w.project_file.write_text('project = "DOGS"'.lower()),
    "project file gone": lambda w, m: w.project_file.unlink(),
    "nearer file": lambda w, m: (w.here / ".runctl.toml").write_text("idle = 3"),
    "user file": lambda w, m: w.user_file.write_text("idle = 3"),
    "variable": lambda w, m: m.setenv("RUNCTL_IDLE", "3"),
    "wrong variable": lambda w, m: m.setenv("RUNCTL_IDEL", "3"),
    "folder": lambda w, m: m.chdir("/"),
    "home": lambda w, m: m.setenv("HOME", str(w.here)),
    "state home": lambda w, m: m.setenv("XDG_STATE_HOME", str(w.here)),
    "config home": lambda w, m: m.setenv("XDG_CONFIG_HOME", str(w.here)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_is_seen(world: World, later: None, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    world.project_file.write_text('project = "cats"')
    monkeypatch.setenv("XDG_CACHE_HOME", str(world.home / ".cache"))
    before = load()
    assert (load(), world.reads) == (before, 1)
    CHANGES[change](world, monkeypatch)
    try:
        after: object = load()
    except UsageError as error:
        after = str(error)
    assert (after != before or change == "config home", world.reads) == (True, 2)


def test_an_edit_that_keeps_size_and_time_is_seen(world: World, later: None) -> None:
    world.project_file.write_text('project = "cats"')
    load()
    was = world.project_file.stat()
    world.project_file.write_text('project = "dogs"')
    os.utime(world.project_file, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert load().project == "dogs"


def test_flags_are_kept_apart(world: World, later: None) -> None:
    assert [load({"idle": 1}).idle, load({"idle": 2}).idle, load().idle] == [1.0, 2.0, 60.0]
    assert [load({"idle": 1}).idle, load({"idle": 2}).idle, load().idle] == [1.0, 2.0, 60.0]
    assert world.reads == 3


def test_a_file_of_this_moment_is_not_trusted(world: World) -> None:
    world.project_file.write_text('project = "cats"')
    load()
    load()
    assert world.reads == 2


def test_a_file_that_changes_while_it_is_read_is_not_kept(
    world: World, later: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = resolving.resolve

    def slow(*args: object) -> object:
        found = real(*args)  # type: ignore[arg-type] # handed on as they came
        world.project_file.unlink()
        return found

    with monkeypatch.context() as patched:
        world.project_file.write_text('project = "cats"')
        patched.setattr(resolving, "resolve", slow)
        assert load().project == "cats"
    assert not world.cache.exists()


@pytest.mark.parametrize("place", ["flag", "environment", "file"])
def test_a_password_is_never_kept_but_the_rest_is(
    world: World, later: None, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def give(url: str) -> dict[str, object]:
        if place == "flag":
            return {"bus_url": url}
        if place == "environment":
            monkeypatch.setenv("RUNCTL_BUS_URL", url)
        else:
            world.project_file.write_text(f'bus_url = "{url}"')
            world.project_file.chmod(0o600)
        return {}

    given = give(BROKER)
    assert [load(given).bus_url, load(given).bus_url, world.reads] == [BROKER, BROKER, 1]
    assert b"hunter2" not in world.cache.read_bytes()
    other = BROKER.replace("hunter2", "correct-horse")
    assert load(give(other)).bus_url == other


def test_the_password_of_the_management_api_is_never_kept_but_the_rest_is(
    world: World, later: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache with an administrator's password, or settings resolved anew for every command."""
    url = "http://root:hunter2@broker:15672"
    monkeypatch.setenv("RUNCTL_BUS_MANAGEMENT", url)
    monkeypatch.setenv("RUNCTL_BUS_URL", BROKER)
    found = [load(), load()]
    assert [(one.bus_management, one.bus_url) for one in found] == [(url, BROKER)] * 2
    assert world.reads == 1
    assert b"hunter2" not in world.cache.read_bytes()


def test_a_password_elsewhere_keeps_everything_out(world: World, later: None) -> None:
    load({"resume_arg": "--from x://me:hunter2@h/{path}"})
    assert not world.cache.exists()


@pytest.mark.parametrize(
    "content", [b"", b"\xc1", b"\x93\x01\x02", b"\x91\x93\xa1k\x80\xc0", os.urandom(300)]
)
def test_a_damaged_cache_is_ignored_and_replaced(world: World, later: None, content: bytes) -> None:
    world.cache.parent.mkdir(parents=True)
    world.cache.write_bytes(content)
    before = load()
    assert (load(), world.reads) == (before, 1)


def test_a_cache_that_others_can_write_is_not_trusted(world: World, later: None) -> None:
    load()
    world.cache.chmod(0o666)
    load()
    assert world.reads == 2


def test_a_cache_that_cannot_be_written_is_no_trouble(world: World, later: None) -> None:
    (world.home / ".cache").write_text("in the way")
    assert load() == load()


def test_the_cache_is_private_and_stays_small(world: World, later: None) -> None:
    for number in range(40):
        load({"idle": number})
    assert (world.cache.stat().st_mode & 0o777, world.cache.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert [entry.name for entry in world.cache.parent.iterdir()] == [world.cache.name]
    reads = world.reads
    load({"idle": 39})
    load({"idle": 0})
    assert world.reads == reads + 1
