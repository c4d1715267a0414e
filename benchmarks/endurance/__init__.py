"""Robustness: long runs, faults, malicious files, several processes, real GPUs."""
