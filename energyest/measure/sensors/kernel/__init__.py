"""Power and energy that the Linux kernel shows as files: RAPL, AMD's driver, Intel GPUs, Jetson."""
