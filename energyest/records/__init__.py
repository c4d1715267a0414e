"""What is stored and shared: traces, workloads and probes, their files and names; no torch."""
