"""Runs a script from examples/popular: python -m tests.support.programs.script NAME [arguments]."""

import sys

from tests.support.examples import load_script

load_script(sys.argv[1]).main(sys.argv[2:])
