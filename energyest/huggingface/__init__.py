"""The adapter for Hugging Face's Trainer: passes its events on to `energyest.tracking`."""

from energyest.checks import check_installed

# Of transformers, `base` says it when a callback is made: some only want to know the class.
check_installed("EnergyCallback", "torch", "fvcore")
