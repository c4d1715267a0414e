"""Any training loop to a trace and a projection: where measuring and estimating meet."""
