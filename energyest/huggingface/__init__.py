"""The adapter for Hugging Face's Trainer: passes its events on to `energyest.tracking`."""
