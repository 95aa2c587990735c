"""Data-parallel training of several ranks (gloo), for torchrun. On SIGTERM the ranks agree on the step at
which they stop, and rank 0 saves. `--slow-save`: rank 0 takes longer for that than torchrun waits."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from diary import open_diary

asked: list[int] = []


def save(folder: Path, step: int, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    aside = folder / ".saving.tmp"
    torch.save({"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}, aside)
    aside.replace(folder / f"step-{step:06d}.pt")


def anyone_asked() -> bool:
    """Whether a rank was told to stop: the same answer, at the same step, in all of them."""
    flag = torch.tensor([len(asked)])
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag.item())


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--step-time", type=float, default=0.05)
    parser.add_argument("--slow-save", type=float, default=0.0)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, _frame: asked.append(number))
    dist.init_process_group("gloo")
    rank, folder = dist.get_rank(), Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
    torch.manual_seed(0)
    model = DistributedDataParallel(torch.nn.Linear(8, 1))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    step = 0
    if resume := os.environ.get("RUNCTL_RESUME_FROM"):
        saved = torch.load(resume, weights_only=True)
        step = saved["step"]
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
    diary = open_diary() if rank == 0 else None
    if diary:
        diary.note("began", step)
    while step < options.steps:
        drawn = torch.Generator().manual_seed(step * 1000 + rank)
        loss = (model(torch.randn(4, 8, generator=drawn)) - 1).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        time.sleep(options.step_time)
        stop = anyone_asked()
        if diary:
            diary.note("step", step)
            print(f"step={step} loss={loss.item():.4f}", flush=True)
            if stop or step % 20 == 0:
                # A rank that has nothing to save ends at once: from then on torchrun's patience counts.
                time.sleep(options.slow_save if stop else 0.0)
                save(folder, step, model, optimizer)
                diary.note("saved", step)
        if stop:
            return 143
    if diary:
        diary.note("finished", step)
    dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
