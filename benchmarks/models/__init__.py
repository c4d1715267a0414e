"""Models to measure, and settings to train them in."""
