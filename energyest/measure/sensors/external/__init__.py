"""Sensors outside of the process: programs and services that answer slowly, or not at all."""
