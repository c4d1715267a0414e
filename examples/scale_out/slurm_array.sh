#!/usr/bin/env bash
#SBATCH --job-name=energyest-sweep
#SBATCH --array=0-2
#SBATCH --cpus-per-task=1
#SBATCH --time=00:10:00
# Each task of the array trains one network: sbatch examples/scale_out/slurm_array.sh
# The traces name job and task, so that `energyest runs` can tell which is whose.
set -euo pipefail

widths=(32 64 128)
width=${widths[${SLURM_ARRAY_TASK_ID:-0}]}
runs=${RUNS:-runs/slurm}
cd "${SLURM_SUBMIT_DIR:-.}"
python examples/scale_out/training.py --width "$width" --folder "$runs/width-$width"
