"""Evidence for the figures that energyest states; README.md beside this file is the list."""
