"""`energyest run`: a program under measurement that knows nothing of it."""
