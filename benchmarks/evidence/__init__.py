"""How accurate energyest is and how fast: recorded trainings and synthetic signals, no GPU."""
