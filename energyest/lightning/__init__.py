"""The hooks of a Lightning Trainer, translated into those of `energyest.tracking`."""
