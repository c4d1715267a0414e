"""What the text of the repository is checked with: `python -m prose.check`."""
