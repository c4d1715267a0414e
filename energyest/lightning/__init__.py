"""The adapter for Lightning's Trainer: passes its hooks on to `energyest.tracking`."""
