"""Read logs of other tools as `EnergyTrace`: one reader per tool, and `read_log` for all."""

from energyest.readers.detect import read_log, tool_of
from energyest.readers.formats.carbontracker import read_carbontracker
from energyest.readers.formats.codecarbon import read_codecarbon
from energyest.readers.formats.dcgm import read_dcgm
from energyest.readers.formats.mlflow import read_mlflow
from energyest.readers.formats.mlperf_power import read_mlperf_power
from energyest.readers.formats.nvidia_smi import read_nvidia_smi
from energyest.readers.formats.table import read_table
from energyest.readers.formats.tensorboard import read_tensorboard
from energyest.readers.formats.trackio import read_trackio
from energyest.readers.formats.wandb import read_wandb
from energyest.readers.formats.zeus import read_zeus

__all__ = [
    "read_carbontracker",
    "read_codecarbon",
    "read_dcgm",
    "read_log",
    "read_mlflow",
    "read_mlperf_power",
    "read_nvidia_smi",
    "read_table",
    "read_tensorboard",
    "read_trackio",
    "read_wandb",
    "read_zeus",
    "tool_of",
]
