"""A log of nvidia-smi becomes a trace, and is projected from its first six epochs.

The log is of a real training on an H200 (data/README.md); make your own with

    nvidia-smi --query-gpu=timestamp,index,power.draw,utilization.gpu --format=csv -lms 100

python examples/nvidia_smi_log.py
"""

from pathlib import Path

from energyest import estimate_step
from energyest.readers import read_nvidia_smi

data = Path(__file__).parent / "data"

trace = read_nvidia_smi(data / "nvidia_smi.csv", epoch_end_s=data / "epoch_ends.txt")
columns = ["epoch", "duration_s", "energy_J", "mean_power_W"]
print(trace.epochs[columns].round(1).to_string(index=False))

projection = estimate_step(trace.head(6), epochs=12)
print(f"after six epochs: {projection}")
print(f"measured: {trace.column('energy_J').sum():.0f} J")
trace.plot(observed=6).savefig("nvidia_smi.svg")
