"""Simulated machines for tests and benchmarks: no part of the package, and of neither of the two.

A driver, a clock, several processes, things that fail, files that are hostile: whatever the tests
use for some seconds and the benchmarks for hours.
"""
