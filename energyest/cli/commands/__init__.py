"""The commands of `energyest`: a module of its name each, which holds it as `command`.

They import the library inside their functions: `--help` and the start of `run` stay quick.
"""
