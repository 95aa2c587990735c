"""Which processes of a training to ask to save. Pure: decides over a snapshot, sends nothing.

Never the whole group: that kills data-loader workers, and with them the save. Never a launcher while what it
launched can be told from it: launchers answer a signal by killing their ranks some seconds later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from posixpath import basename

RANK_VARIABLES = (
    "RANK",
    "LOCAL_RANK",
    "OMPI_COMM_WORLD_RANK",
    "PMI_RANK",
    "MV2_COMM_WORLD_RANK",
    "SLURM_PROCID",
)
"""Launchers set one or more of these for each process that they start."""

_SHELLS = {"sh", "bash", "dash", "zsh", "ksh", "mksh", "fish", "ash", "busybox", "tcsh", "csh"}

# Programs that run another one and are never the training themselves.
_WRAPPERS = _SHELLS | {
    "env", "nice", "ionice", "chrt", "taskset", "numactl", "time", "timeout", "nohup", "setsid", "stdbuf",
    "script", "unbuffer", "catchsegv", "flock", "sudo", "su", "doas", "runuser", "tini", "dumb-init",
    "catatonit", "unshare", "nsenter", "chroot", "bwrap", "strace", "ltrace", "perf", "gdb", "nsys",
    "ncu", "py-spy", "memray", "uv", "uvx", "poetry", "pipenv", "pdm", "hatch", "rye", "pixi", "conda",
    "mamba", "micromamba", "dotenv", "direnv", "make", "just", "task", "xargs", "parallel", "ssh", "srun",
    "mpirun", "mpiexec", "mpiexec.hydra", "orterun", "prterun", "orted", "prted", "hydra_pmi_proxy",
    "torchrun", "accelerate", "deepspeed", "horovodrun", "composer", "colossalai", "singularity",
    "apptainer",
}  # fmt: skip

# The same, as `python -m …`.
_WRAPPER_MODULES = {
    "torch.distributed.run", "torch.distributed.launch", "torch.distributed.launcher", "accelerate",
    "accelerate.commands.launch", "accelerate.commands.accelerate_cli", "deepspeed.launcher.runner",
    "deepspeed.launcher.launch", "composer.cli.launcher", "conda", "poetry", "pipenv", "uv", "dotenv",
}  # fmt: skip

# Companions in scripts and pipelines, never the training.
_HELPERS = {
    "tee", "cat", "grep", "egrep", "fgrep", "rg", "sed", "awk", "gawk", "mawk", "tr", "cut", "sort",
    "uniq", "wc", "head", "tail", "less", "more", "ts", "split", "gzip", "pigz", "zstd", "xz", "logger",
    "multilog", "rotatelogs", "pv", "sleep", "date", "watch", "top", "htop", "nvtop", "nvidia-smi",
    "dcgmi", "vmstat", "iostat", "free", "tensorboard", "aws", "gsutil", "gcloud", "azcopy", "rclone",
    "rsync", "s5cmd", "inotifywait", "ssh-agent", "dbus-daemon",
}  # fmt: skip

_INTERPRETERS = ("python", "pypy", "julia", "Rscript", "node", "java", "ruby", "perl", "lua")


@dataclass(frozen=True)
class Process:
    """`ranks` are those of RANK_VARIABLES found in its environment; `start` orders processes by age."""

    pid: int
    ppid: int
    argv: tuple[str, ...]
    ranks: Mapping[str, str] = field(default_factory=dict)
    start: int = 0


def save_targets(root: int, processes: Sequence[Process]) -> tuple[Process, ...]:
    """Whom to signal so that the training under `root` saves; empty only when `root` is not in `processes`.

    A rank is a process that has a rank which its parent has not: its workers inherit it. Where there are
    ranks, it is they (each followed inwards through its own wrappers); else the innermost command.
    """
    tops = [process for process in processes if process.pid == root]
    if not tops:
        return ()
    return tuple(sorted(_Tree(tops[0], processes).ranks_or_innermost(tops[0]), key=lambda each: each.pid))


def describe(process: Process) -> str:
    """Its program and script, for people; no arguments, since those may hold secrets."""
    words = [_program(process), _script(process)]
    return " ".join(word[:60] for word in words if word)


class _Tree:
    """What is below `top`. A snapshot is read process by process and ids are given away again, so it may
    seem to hold a loop: each process is placed once."""

    def __init__(self, top: Process, processes: Sequence[Process]) -> None:
        self.children: dict[int, list[Process]] = {}
        by_parent: dict[int, list[Process]] = {}
        for process in processes:
            by_parent.setdefault(process.ppid, []).append(process)
        placed = {top.pid}
        todo = [top.pid]
        while todo:
            pid = todo.pop()
            below = [each for each in by_parent.get(pid, []) if each.pid not in placed]
            placed.update(each.pid for each in below)
            todo += [each.pid for each in below]
            self.children[pid] = below

    def ranks_or_innermost(self, top: Process) -> list[Process]:
        ranks = self._ranks_below(top)
        if not ranks:
            return self._innermost(top)
        return [target for rank in ranks for target in self._within_rank(rank)]

    def _within_rank(self, rank: Process) -> list[Process]:
        # `mpirun` with one `torchrun` a node: a rank that launches ranks. Any other rank that starts
        # processes of another rank (an evaluation, an inference server) is itself what trains.
        return self.ranks_or_innermost(rank) if is_wrapper(rank) else [rank]

    def _ranks_below(self, top: Process) -> list[Process]:
        found = []
        todo = [(top, child) for child in self.children.get(top.pid, [])]
        while todo:
            parent, process = todo.pop()
            if process.ranks and dict(process.ranks) != dict(parent.ranks):
                found.append(process)
            else:
                todo += [(process, child) for child in self.children.get(process.pid, [])]
        return found

    def _innermost(self, top: Process) -> list[Process]:
        found: list[Process] = []
        todo = [top]
        while todo:
            process = todo.pop()
            inner = self._commands_of(process) if is_wrapper(process) else []
            todo += inner
            if not inner:
                found.append(process)
        return found

    def _commands_of(self, wrapper: Process) -> list[Process]:
        """What `wrapper` runs in earnest: of several children the youngest of an interpreter, since a script
        starts its companions first, with all its siblings that run the same script."""
        candidates = [child for child in self.children.get(wrapper.pid, []) if not self._only_helps(child)]
        if not candidates:
            return []
        chosen = max(candidates, key=lambda each: (self._trains(each), each.start, each.pid))
        return [each for each in candidates if _same_command(each, chosen)]

    def _only_helps(self, process: Process) -> bool:
        if _program(process) in _HELPERS or not process.argv or not process.argv[0]:
            return True
        # `( while sleep 10; do nvidia-smi; done ) &` is a copy of its script that runs helpers only.
        below = self.children.get(process.pid, [])
        return (
            _program(process) in _SHELLS and bool(below) and all(self._only_helps(child) for child in below)
        )

    def _trains(self, process: Process) -> bool:
        """Whether an interpreter runs in it or below it."""
        todo = [process]
        while todo:
            each = todo.pop()
            if _interpreter(each):
                return True
            todo += self.children.get(each.pid, [])
        return False


def is_wrapper(process: Process) -> bool:
    """Whether it only runs another command."""
    if _program(process) in _WRAPPERS:
        return True
    if not _program(process).startswith(("python", "pypy")):
        return False
    module, script = _entry(process)
    # Their commands are Python scripts: `python /opt/conda/bin/torchrun train.py`.
    return module in _WRAPPER_MODULES or basename(script) in _WRAPPERS


def _program(process: Process) -> str:
    return basename(process.argv[0]).lstrip("-") if process.argv else ""


def _interpreter(process: Process) -> bool:
    return _program(process).startswith(_INTERPRETERS) and not is_wrapper(process)


def _script(process: Process) -> str:
    if not _program(process).startswith(_INTERPRETERS):
        return ""
    module, script = _entry(process)
    return f"-m {module}" if module else basename(script)


def _entry(process: Process) -> tuple[str, str]:
    """(module, script) of an interpreter's command line: one of them, or neither (`-c`)."""
    words = iter(process.argv[1:])
    for word in words:
        if word == "-m":
            return next(words, ""), ""
        if word in ("-c", "-e"):
            break
        if word in ("-W", "-X"):
            next(words, "")
        elif not word.startswith("-"):
            return "", word
    return "", ""


def _same_command(one: Process, other: Process) -> bool:
    if one.argv == other.argv:
        return True
    return bool(_script(one)) and (_program(one), _script(one)) == (_program(other), _script(other))
