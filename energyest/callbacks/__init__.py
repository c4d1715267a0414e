"""Training loops to recorder. The only place where measuring and estimating meet."""
