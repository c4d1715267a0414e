"""The hooks of a Lightning Trainer, translated into those of `energyest.tracking`."""

from energyest.checks import check_installed

check_installed("EnergyMonitor", "torch", "pytorch_lightning", "fvcore")
