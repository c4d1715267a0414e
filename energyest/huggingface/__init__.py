"""The adapter for Hugging Face's Trainer: passes its events on to `energyest.tracking`."""

from energyest.checks import check_installed

# `base` checks for transformers when a callback is created: some code only imports the class.
check_installed("EnergyCallback", "torch", "fvcore")
