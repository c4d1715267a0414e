"""The events of Hugging Face's Trainer, translated into those of `energyest.tracking`."""
