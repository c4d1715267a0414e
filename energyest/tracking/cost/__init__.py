"""The budget of a training, and the summary of its cost at the end."""
