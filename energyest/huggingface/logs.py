"""Metrics of a Trainer: reads what a training logs, and logs the callback's values."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any

from energyest.adapters.log_names import LogNames
from energyest.records.trace import EPOCH_COLUMNS

if TYPE_CHECKING:
    from transformers import Trainer

log = logging.getLogger("energyest")

# A key of the summary of a whole training, which does not belong to an epoch.
_SUMMARY = "train_runtime"


class EnergyLogs(dict[str, float]):
    """Values logged by a callback of this package, as opposed to those of the training."""


class EnergyLog:
    """Logs the callback's values, and collects what the training logs for its rows."""

    def __init__(self) -> None:
        self._names = LogNames()
        # Names used by a second callback of this package; they need no warning.
        self._others: set[str] = set()
        self._fresh: dict[str, float] = {}
        self._left_out: set[str] = set()
        self._is_logging = False

    def put(self, trainer: Trainer, values: Mapping[str, float]) -> None:
        """Log values under names that begin with `energy/`.

        Args:
            trainer: the Trainer that logs them to everything it reports to.
            values: the values by name.
        """
        from transformers import Trainer  # noqa: PLC0415  (which is optional)

        named = {}
        for wanted, value in values.items():
            name = self._names.free(wanted, is_news=wanted not in self._others)
            if name is not None:
                named[name] = value
        control = trainer.control
        should_log, self._is_logging = control.should_log, True
        try:
            # Not the method of a subclass, which may reset its averages or print at each log.
            Trainer.log(trainer, EnergyLogs(named))
        finally:
            self._is_logging = False
            # Scripts look for the summary of a training at the end.
            history = trainer.state.log_history
            if len(history) > 1 and _SUMMARY in history[-2]:
                history[-2], history[-1] = history[-1], history[-2]
            # Logging resets the flag that the training itself is about to log.
            trainer.control.should_log = should_log

    def see(self, logs: Mapping[str, Any] | None) -> None:
        """Note values logged by the training or by a callback of this package."""
        if self._is_logging or not logs:
            return
        self._names.take(logs)
        if isinstance(logs, EnergyLogs):
            self._others.update(logs)
        elif _SUMMARY not in logs:
            for name, value in logs.items():
                if name == "epoch" or not isinstance(value, Real):
                    continue
                if name not in EPOCH_COLUMNS:
                    self._fresh[name] = float(value)
                elif name not in self._left_out:
                    self._left_out.add(name)
                    log.warning(
                        "energyest: metric %r is left out of the trace: it has the name of a "
                        "column of the trace",
                        name,
                    )

    def take(self) -> dict[str, float]:
        """The metrics that the training has logged since the last call."""
        taken, self._fresh = self._fresh, {}
        return taken
