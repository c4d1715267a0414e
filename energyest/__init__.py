"""Estimate, measure and project what training a deep-learning model costs in energy.

    from energyest import EnergyMonitor, describe_workload, estimate_pre, estimate_step

    workload = describe_workload(model, batch)                # before training, without a GPU
    estimate_pre(workload, "H100", epochs=90, train_samples=1_281_167)

    monitor = EnergyMonitor()
    trainer = pl.Trainer(max_epochs=100, callbacks=[monitor])
    trainer.fit(model)
    monitor.trace.epochs                                      # what each epoch cost
    estimate_step(monitor.trace, epochs=200)                  # what 200 epochs would cost

    runs = energyest.tradeoff.collect_runs("lightning_logs")  # one row per run
    energyest.tradeoff.pareto_front(runs, by=["model", "gpu"])

With Hugging Face's Trainer, use `EnergyCallback`; in any other training loop, `track()`.

The most used names are here. The rest is in `energyest.estimators`, `.tradeoff`, `.profiling`,
`.readers` (logs of other tools), `.plots`, `.report`, `.exporters` (Prometheus), `.carbon`,
`.gpus`, `.measure` (sensors) and `.errors`.
"""

from pathlib import Path
from typing import Any

import lazy_loader

# Each name is imported on first use: `import energyest` stays fast and needs no torch or pandas.
_public_name, __dir__, _names = lazy_loader.attach_stub(__name__, __file__)
# Modules and packages beside this file are namespaces: `import *` does not import them.
_namespaces = {path.stem for path in Path(__file__).parent.iterdir()}
__all__ = [name for name in _names if name not in _namespaces]


def __getattr__(name: str) -> Any:
    if name != "__version__":
        return _public_name(name)
    try:
        from importlib import metadata  # noqa: PLC0415  (as slow as everything else here together)

        return metadata.version("energyest")
    except (ImportError, OSError):  # a package that is not found is an ImportError
        # It was never installed, or nothing can be read now: that must end no training.
        return "0+unknown"
