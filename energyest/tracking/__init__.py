"""Tracking of training loops: connects measuring and estimating."""
