"""One module a tool: what its logs look like, and no more than that."""
