"""Evidence for the figures that energyest states; the README.md in this folder lists it."""
