"""Records that are stored and shared: traces, workloads, probes, their files; without torch."""
