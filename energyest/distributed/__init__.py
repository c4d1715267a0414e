"""Bring the rows of other ranks to rank 0, without collective calls."""
