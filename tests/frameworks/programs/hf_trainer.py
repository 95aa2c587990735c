"""A tiny random GPT-2 under the Hugging Face Trainer, as people write it. `--jit`: with the Trainer's own
answer to SIGTERM (off unless asked for); without it the Trainer dies of the signal."""

from __future__ import annotations

import argparse
import os
import time

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

from diary import open_diary


class Notes(TrainerCallback):
    """Writes the diary, and takes as long for each step as a model of some size would."""

    def __init__(self, step_time: float) -> None:
        self._diary, self._step_time = open_diary(), step_time

    def on_train_begin(self, args, state, control, **rest):  # type: ignore[no-untyped-def]  # torch's world
        self._diary.note("began", state.global_step)

    def on_step_end(self, args, state, control, **rest):  # type: ignore[no-untyped-def]
        time.sleep(self._step_time)
        self._diary.note("step", state.global_step)

    def on_save(self, args, state, control, **rest):  # type: ignore[no-untyped-def]
        self._diary.note("saved", state.global_step)

    def on_train_end(self, args, state, control, **rest):  # type: ignore[no-untyped-def]
        if state.global_step == args.max_steps:
            self._diary.note("finished", state.global_step)


class Pausing(Trainer):
    """Gathers the optimizer's state from many GPUs, say, before it is written."""

    pause = 0.0

    def _save_optimizer_and_scheduler(self, folder):  # type: ignore[no-untyped-def]
        time.sleep(self.pause)
        super()._save_optimizer_and_scheduler(folder)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--step-time", type=float, default=0.05)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds between two files of a checkpoint")
    parser.add_argument("--jit", action="store_true")
    options = parser.parse_args()
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "n_positions": 32, "n_embd": 16, "n_layer": 1, "n_head": 2}
    model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))
    tokens = torch.randint(0, 64, (64, 16))
    arguments = TrainingArguments(
        output_dir=os.environ["RUNCTL_CHECKPOINT_DIR"],
        max_steps=options.steps,
        per_device_train_batch_size=4,
        logging_steps=5,
        save_steps=20,
        save_total_limit=2,
        eval_strategy="steps",
        eval_steps=50,
        report_to=[],
        use_cpu=True,
        enable_jit_checkpoint=options.jit,
    )
    data = [{"input_ids": row, "labels": row} for row in tokens]
    Pausing.pause = options.pause
    trainer = Pausing(
        model=model,
        args=arguments,
        train_dataset=data,
        eval_dataset=data[:16],
        callbacks=[Notes(options.step_time)],
    )
    # A path, never True: that would take the newest folder that is there, whole or torn.
    trainer.train(resume_from_checkpoint=os.environ.get("RUNCTL_RESUME_FROM"))


if __name__ == "__main__":
    main()
