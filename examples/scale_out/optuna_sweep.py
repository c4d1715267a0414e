"""A search by Optuna for networks that are accurate and cheap.

python examples/scale_out/optuna_sweep.py

Several processes, on one machine or many, may share a study: give it a `storage`.
"""

import sys

import optuna
from training import train

from energyest.tradeoff import collect_runs, pareto_front

folder = sys.argv[1] if len(sys.argv) > 1 else "runs/optuna"


def objective(trial: optuna.Trial) -> tuple[float, float]:
    """Accuracy and joules of a network whose width Optuna suggests."""
    width = trial.suggest_int("width", 8, 512, log=True)
    return train(width, f"{folder}/trial-{trial.number}")


optuna.logging.set_verbosity(optuna.logging.WARNING)
study = optuna.create_study(
    directions=["maximize", "minimize"], sampler=optuna.samplers.RandomSampler(seed=0)
)
study.optimize(objective, n_trials=4)
for trial in study.best_trials:
    print(f"trial {trial.number}: accuracy {trial.values[0]:.3f}, {trial.values[1]:.1f} J")

runs = collect_runs(folder)
print(pareto_front(runs, by="model")[["energy_J", "val_acc"]])
