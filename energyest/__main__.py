"""`python -m energyest` is the command line."""

from energyest.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
