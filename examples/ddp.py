"""Two processes with DDP on one machine; the trace of rank 0 covers them both.

Lightning starts the second process. On GPUs, `devices=2` alone is enough, and each process records
its own GPU.

python examples/ddp.py
"""

import pytorch_lightning as pl
from pytorch_lightning.demos.boring_classes import BoringDataModule, BoringModel

from energyest import EnergyMonitor, load_trace


def main():
    """Train a linear model, and print what each rank recorded."""
    monitor = EnergyMonitor("runs/ddp")
    trainer = pl.Trainer(
        max_epochs=5,
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        callbacks=[monitor],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.fit(BoringModel(), BoringDataModule())
    if trainer.is_global_zero:
        columns = ["epoch", "duration_s", "energy_J", "steps", "samples"]
        print(monitor.trace.epochs[columns].round(3).to_string(index=False))
        for rank in (0, 1):
            alone = load_trace(monitor.folder, ranks=[rank])
            print(f"rank {rank}: {int(alone.column('samples').sum())} samples")


if __name__ == "__main__":
    main()
