"""A small Lightning module. `--on-exception`: with a ModelCheckpoint that saves when SIGTERM ends the
training; without it Lightning stops at the end of the batch and saves nothing."""

from __future__ import annotations

import argparse
import os
import time

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar, TQDMProgressBar
from torch.utils.data import DataLoader, TensorDataset

from diary import open_diary


class Model(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(8, 1)

    def training_step(self, batch, index):  # type: ignore[no-untyped-def]  # torch's world
        loss = torch.nn.functional.mse_loss(self.layer(batch[0]), batch[1])
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, index):  # type: ignore[no-untyped-def]
        self.log("val_loss", torch.nn.functional.mse_loss(self.layer(batch[0]), batch[1]), prog_bar=True)

    def configure_optimizers(self):  # type: ignore[no-untyped-def]
        return torch.optim.Adam(self.parameters(), 0.01)


class Notes(Callback):
    """Writes the diary, and takes as long for each step as a model of some size would."""

    def __init__(self, step_time: float) -> None:
        self._diary, self._step_time = open_diary(), step_time

    def on_train_start(self, trainer, module):  # type: ignore[no-untyped-def]
        self._diary.note("began", trainer.global_step)

    def on_train_batch_end(self, trainer, module, *rest):  # type: ignore[no-untyped-def]
        time.sleep(self._step_time)
        self._diary.note("step", trainer.global_step)

    def on_fit_end(self, trainer, module):  # type: ignore[no-untyped-def]
        self._diary.note("finished", trainer.global_step)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--step-time", type=float, default=0.05)
    parser.add_argument("--on-exception", action="store_true")
    parser.add_argument("--refresh", type=int, default=1, help="steps between two bars")
    parser.add_argument("--rich", action="store_true", help="the bar that rich draws")
    options = parser.parse_args()
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(240, 8), torch.randn(240, 1))
    saving = ModelCheckpoint(
        dirpath=os.environ["RUNCTL_CHECKPOINT_DIR"],
        every_n_train_steps=20,
        save_top_k=-1,
        save_on_exception=options.on_exception,
    )
    trainer = lightning.Trainer(
        max_epochs=options.epochs,
        accelerator="cpu",
        logger=False,
        enable_model_summary=False,
        # By default it is rich's where rich is installed, and that prints into a file only at the very end.
        callbacks=[
            saving,
            Notes(options.step_time),
            RichProgressBar() if options.rich else TQDMProgressBar(refresh_rate=options.refresh),
        ],
    )
    loaders = DataLoader(data, batch_size=8, shuffle=True), DataLoader(data, batch_size=48)
    trainer.fit(Model(), *loaders, ckpt_path=os.environ.get("RUNCTL_RESUME_FROM"))


if __name__ == "__main__":
    main()
