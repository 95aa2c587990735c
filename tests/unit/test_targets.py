"""Whom a training's many shapes want signalled. A wrong choice loses the save at an interruption."""

from __future__ import annotations

import pytest

from runctl_agent.trainer.targets import Process, describe, save_targets

PY = "/opt/venv/bin/python"
TRAIN = f"{PY} -u train.py --lr 1e-3"


def tree(*rows: str) -> list[Process]:
    """Rows of `pid ppid [NAME=VALUE …] | command`; a later row is a younger process."""
    processes = []
    for age, row in enumerate(rows):
        head, _, command = row.partition("|")
        pid, ppid, *ranks = head.split()
        pairs = dict(each.split("=") for each in ranks)
        processes.append(Process(int(pid), int(ppid), tuple(command.split()), pairs, age))
    return processes


WORKERS = [f"2{n} 10 | {TRAIN}" for n in range(4)]

SHAPES = {
    "plain": ([f"10 1 | {TRAIN}"], [10]),
    "forked data loaders have the same argv": (
        [
            f"10 1 | {TRAIN}",
            *WORKERS,
            f"30 10 | {PY} -c from multiprocessing.resource_tracker import main;main(5)",
        ],
        [10],
    ),
    "one data loader": ([f"10 1 | {TRAIN}", f"20 10 | {TRAIN}"], [10]),
    "spawned data loaders": (
        [f"10 1 | {TRAIN}", f"20 10 | {PY} -c from multiprocessing.spawn import spawn_main; x --fork"],
        [10],
    ),
    "bash script": (["9 1 | bash train.sh", f"10 9 | {TRAIN}", *WORKERS], [10]),
    "sh -c with more to come": (["9 1 | sh -c python train.py; true", f"10 9 | {TRAIN}"], [10]),
    "login shell": (["9 1 | -bash", f"10 9 | {TRAIN}"], [10]),
    "uv run": (["9 1 | uv run --with x python train.py", f"10 9 | {TRAIN}", *WORKERS], [10]),
    "conda run": (
        [
            f"8 1 | {PY} /opt/conda/bin/conda run -n x python train.py",
            "9 8 | /bin/bash /tmp/x",
            f"10 9 | {TRAIN}",
        ],
        [10],
    ),
    "a chain": (
        [
            "6 1 | bash a.sh",
            "7 6 | time -v nice",
            "8 7 | uv run x",
            "9 8 | bash b.sh",
            f"10 9 | {TRAIN}",
            *WORKERS,
        ],
        [10],
    ),
    "accelerate, one process": (
        [f"9 1 | {PY} /opt/venv/bin/accelerate launch train.py", f"10 9 | {TRAIN}"],
        [10],
    ),
    "accelerate as a module": (
        [f"9 1 | {PY} -m accelerate.commands.launch train.py", f"10 9 | {TRAIN}"],
        [10],
    ),
    "a warning option is no script": (
        [f"9 1 | {PY} -W ignore {PY}/torchrun train.py", f"10 9 | {TRAIN}"],
        [10],
    ),
    "pipeline": (["9 1 | bash train.sh", f"10 9 | {TRAIN}", "11 9 | tee log"], [10]),
    "pipeline, tee first": (["9 1 | bash train.sh", "11 9 | tee log", f"10 9 | {TRAIN}"], [10]),
    "pipeline in a subshell": (
        ["8 1 | bash t.sh", "9 8 | bash t.sh", "11 8 | grep -v x", f"10 9 | {TRAIN}", "12 9 | sleep 1"],
        [10],
    ),
    "companions in the background": (
        [
            "9 1 | bash train.sh",
            "11 9 | tensorboard --logdir x",
            "12 9 | bash train.sh",
            "13 12 | sleep 5",
            f"14 9 | {PY} monitor.py",
            f"10 9 | {TRAIN}",
        ],
        [10],
    ),
    "an unknown helper beside the training": (["9 1 | bash x", f"10 9 | {TRAIN}", "11 9 | ./exporter"], [10]),
    "the same script twice, without ranks": (
        ["9 1 | bash x", f"10 9 | {PY} train.py --part 0", f"11 9 | {PY} train.py --part 1"],
        [10, 11],
    ),
    "a shell that is the training": (["9 1 | bash loop.sh", "10 9 | sleep 1"], [9]),
    "a shell alone": (["9 1 | bash loop.sh"], [9]),
    "a compiled trainer": (["9 1 | bash x", "10 9 | ./train --fast", "11 10 | ./train --fast"], [10]),
    "torchrun": (
        [
            f"9 1 | {PY} /opt/venv/bin/torchrun --nproc-per-node 2 train.py",
            f"10 9 RANK=0 LOCAL_RANK=0 | {TRAIN}",
            f"11 9 RANK=1 LOCAL_RANK=1 | {TRAIN}",
            f"20 10 RANK=0 LOCAL_RANK=0 | {TRAIN}",
            f"21 11 RANK=1 LOCAL_RANK=1 | {TRAIN}",
        ],
        [10, 11],
    ),
    "a launcher nobody knows": (
        [
            f"9 1 | {PY} launch.py",
            f"10 9 RANK=0 | {TRAIN}",
            f"11 9 RANK=1 | {TRAIN}",
            f"12 11 RANK=1 | {TRAIN}",
        ],
        [10, 11],
    ),
    "ranks behind shells": (
        [
            "8 1 | mpirun -n 2 wrap.sh",
            "9 8 OMPI_COMM_WORLD_RANK=0 | bash wrap.sh",
            f"10 9 OMPI_COMM_WORLD_RANK=0 | {TRAIN}",
            "11 8 OMPI_COMM_WORLD_RANK=1 | bash wrap.sh",
            f"12 11 OMPI_COMM_WORLD_RANK=1 | {TRAIN}",
        ],
        [10, 12],
    ),
    "mpirun with a torchrun on each node": (
        [
            "8 1 | mpirun -n 1 torchrun",
            f"9 8 PMI_RANK=0 | {PY} -m torch.distributed.run train.py",
            f"10 9 PMI_RANK=0 RANK=0 | {TRAIN}",
            f"11 9 PMI_RANK=0 RANK=1 | {TRAIN}",
        ],
        [10, 11],
    ),
    "everything under srun has the same rank": (
        ["8 1 SLURM_PROCID=3 | bash x", f"10 8 SLURM_PROCID=3 | {TRAIN}", f"20 10 SLURM_PROCID=3 | {TRAIN}"],
        [10],
    ),
    "torchrun under srun": (
        [
            "8 1 SLURM_PROCID=3 | torchrun x",
            f"10 8 SLURM_PROCID=3 RANK=6 | {TRAIN}",
            "11 8 SLURM_PROCID=3 | tee",
        ],
        [10],
    ),
    "a rank that starts an evaluation of its own rank": (
        ["8 1 | torchrun x", f"10 8 RANK=0 | {TRAIN}", f"11 10 RANK=0 LOCAL_RANK=5 | {PY} evaluate.py"],
        [10],
    ),
    "a variable set by a script": (
        ["9 1 | bash x", f"10 9 RANK=0 | {TRAIN}", f"20 10 RANK=0 | {TRAIN}"],
        [10],
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_shape(shape: str) -> None:
    rows, wanted = SHAPES[shape]
    root = int(rows[0].split()[0])
    assert [process.pid for process in save_targets(root, tree(*rows))] == wanted


def test_nobody_when_the_training_is_gone() -> None:
    assert save_targets(10, tree("11 1 | python x.py")) == ()


def test_processes_of_others_are_left_alone() -> None:
    rows = tree(f"10 1 | {TRAIN}", f"50 1 RANK=0 | {TRAIN}", f"51 50 RANK=1 | {TRAIN}")
    assert [process.pid for process in save_targets(10, rows)] == [10]


def test_a_loop_in_a_torn_snapshot_ends() -> None:
    # A snapshot is read process by process: an id may have been given away again meanwhile.
    rows = tree("9 10 | bash x", "10 9 | bash y")
    assert len(save_targets(9, rows)) <= 1


def test_names_hold_no_arguments() -> None:
    assert describe(Process(1, 0, (PY, "-u", "/a/train.py", "--api-key", "hush"))) == "python train.py"
    assert describe(Process(1, 0, (PY, "-m", "pkg.train", "--api-key=hush"))) == "python -m pkg.train"
    assert describe(Process(1, 0, ("/a/train", "hush"))) == "train"
