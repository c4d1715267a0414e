"""The command line: `energyest COMMAND`, one module a command in `energyest.cli.commands`."""

from energyest.cli.app import main

__all__ = ["main"]
