"""Accuracy and speed of energyest, on recorded trainings and synthetic signals, without a GPU."""
