"""The adapter for Lightning's Trainer: passes its hooks on to `energyest.tracking`."""

from energyest.checks import check_installed

check_installed("EnergyMonitor", "torch", "pytorch_lightning", "fvcore")
