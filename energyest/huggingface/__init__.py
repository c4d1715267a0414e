"""The events of Hugging Face's Trainer, translated into those of `energyest.tracking`."""

from energyest.checks import check_installed

# Of transformers, `base` says it when a callback is made: some only want to know the class.
check_installed("EnergyCallback", "torch", "fvcore")
