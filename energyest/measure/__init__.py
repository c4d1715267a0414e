"""Watts to trace: sensors, sampler, meter, ledger, recorder."""
