"""The paper's regressions on a table with a few numbers per run."""
