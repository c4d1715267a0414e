"""`energyest run`: measure a program that knows nothing of it."""
