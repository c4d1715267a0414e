"""Does it hold: long runs, faults, hostile files, several processes, real GPUs."""
