"""What a training may cost, and what it has cost: the budget and the summary at the end."""
