"""Programs that know nothing of energyest, for `energyest run`."""
