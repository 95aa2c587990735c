"""Runs one training and remembers how it ended, whatever becomes of the agent.

Started as `python -I -S minder.py`, it needs nothing but the standard library, and little of that: it stays
as long as the training does, beside it. Importing it does nothing; the agent shares its small file helpers.

Its order comes on standard input as NUL-ended words: the state file, the working directory, how many words
the command has, how many variables the environment has, then all those (the variables as NAME=VALUE). Its
answer, one line on standard output, is `started` or `failed STAGE ERRNO`. Standard error is the training's
output.

The first argument is the number of a file descriptor that holds an exclusive lock, taken by the agent. The
minder lets go of it after it has written how the training ended, and the kernel does so should the minder
die: who waits for the lock therefore waits for the end, without asking again and again.
"""

from __future__ import annotations

import os
import signal
import sys

_PR_SET_CHILD_SUBREAPER = 36
_ROOM = 64  # bytes; more than the longest exit record


def boot_id() -> str:
    """Names this boot of the machine: process ids mean nothing in another one."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def start_time(pid: int) -> int:
    """Clock ticks from boot to the start of `pid`: both name one process. OSError when it is gone."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[19])


def write_durably(path: str, text: str) -> None:
    """`path` holds `text` whole or stays as it was, even when the machine loses power at any moment."""
    reserve(path, len(text.encode()))
    _fill(path, text)


def reserve(path: str, size: int) -> None:
    """Make room for `size` bytes, so that a later `_fill` needs no new block on a disk full by then."""
    fd = os.open(path + ".tmp", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        os.write(fd, b"\n" * size)
        os.fsync(fd)
    finally:
        os.close(fd)


def _fill(path: str, text: str) -> None:
    fd = os.open(path + ".tmp", os.O_WRONLY | os.O_NOFOLLOW)
    try:
        os.write(fd, text.encode())
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(path + ".tmp", path)
    folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def main() -> int:
    # Whoever asks the machine's processes to end gracefully means the training, not its witness.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    lock = int(sys.argv[1])
    os.set_inheritable(lock, False)  # else the training would hold it as well
    words = sys.stdin.buffer.read().split(b"\0")
    if len(words) < 5 or len(words) != 4 + int(words[2]) + int(words[3]) + 1:
        return 1  # the agent died while it wrote the order: nobody wants this training
    state, cwd = os.fsdecode(words[0]), words[1]
    arguments = 4 + int(words[2])
    _adopt_orphans()
    os.chdir("/")
    child = _launch(state, cwd, words[4:arguments], words[arguments:-1])
    if child is None:
        return 1
    _mind(child, state + ".exit", lock)
    return 0


def _adopt_orphans() -> None:
    """Become the parent of what the training leaves behind, so that its whole tree stays findable."""
    try:
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    except (ImportError, OSError, AttributeError):
        pass  # the session and the environment still mark what belongs to the training


def _launch(state: str, cwd: bytes, argv: list[bytes], env: list[bytes]) -> int | None:
    """The process id of the training, or None when it could not be recorded.

    The child waits until it is on record, so there is no moment at which a training runs unknown to all.
    """
    go_read, go_write = os.pipe()
    trouble_read, trouble_write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(go_write)
        _become(go_read, trouble_write, cwd, argv, env)
    os.close(go_read)
    os.close(trouble_write)
    try:
        me = os.getpid()
        reserve(state + ".exit", _ROOM)
        write_durably(
            state,
            f"pid={child}\nstart={start_time(child)}\nminder={me}\nminder_start={start_time(me)}\n"
            f"boot={boot_id()}\n",
        )
    except OSError as error:
        os.close(go_write)  # the child reads the end of the file, and ends
        os.waitpid(child, 0)
        _answer(f"failed record {error.errno}")
        return None
    os.write(go_write, b"g")
    os.close(go_write)
    trouble = os.read(trouble_read, 100).decode()
    os.close(trouble_read)
    _answer(f"failed {trouble}" if trouble else "started")
    return child


def _become(go: int, trouble: int, cwd: bytes, argv: list[bytes], env: list[bytes]) -> None:
    """The child's part: turn into the training. Never returns."""
    stage, number = "session", 0
    try:
        os.setsid()
        # An ignored or blocked signal would stay so in the training, Python's own SIGPIPE included.
        for each in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(each, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        os.dup2(2, 1)
        if os.read(go, 1) != b"g":
            os._exit(125)
        stage = "cwd"
        os.chdir(cwd)
        stage = "exec"
        pairs = (entry.partition(b"=") for entry in env)
        os.execvpe(argv[0], argv, {name: value for name, _, value in pairs})  # noqa: S606  the whole point
    except OSError as error:
        number = error.errno or 0
    except BaseException:  # nothing of the minder may go on in the child
        number = 0
    os.write(trouble, f"{stage} {number}".encode())
    os._exit(127 if number in (2, 20) else 126)  # ENOENT, ENOTDIR: as shells do


def _answer(text: str) -> None:
    try:  # noqa: SIM105  contextlib would cost the minder memory
        os.write(1, text.encode() + b"\n")
    except OSError:
        pass  # the agent is gone; the next one reads the record
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)


def _mind(child: int, exit_file: str, lock: int) -> None:
    """Wait for the training, write down how it ended, and stay until its last orphan is gone."""
    while True:
        try:
            pid, status = os.wait()
        except ChildProcessError:
            return
        if pid != child:
            continue
        code = os.waitstatus_to_exitcode(status)
        try:  # noqa: SIM105  contextlib would cost the minder memory
            _fill(exit_file, f"signal={-code}\n" if code < 0 else f"code={code}\n")
        except OSError:
            pass  # its folder is gone: reported as an unknown exit
        os.close(lock)


if __name__ == "__main__":
    sys.exit(main())
