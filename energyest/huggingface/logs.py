"""Metrics out of a Trainer and into it: what a training logs, and what the callback logs."""

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

# The summary of a whole training, which belongs to none of its epochs, has this in it.
_SUMMARY = "train_runtime"


class EnergyLogs(dict[str, float]):
    """What a callback of this package logs: so other callbacks of it know it from the training."""


class EnergyLog:
    """Logs the callback's values, and keeps what the training logs for its rows."""

    def __init__(self) -> None:
        self._names = LogNames()
        # Names of a second callback beside this one, which are no news.
        self._others: set[str] = set()
        self._fresh: dict[str, float] = {}
        self._left_out: set[str] = set()
        self._is_logging = False

    def put(self, trainer: Trainer, values: Mapping[str, float]) -> None:
        """Log values, by names that begin with `energy/`.

        Args:
            trainer: whose log they go to, and so to all that it reports to.
            values: by name.
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
            # The Trainer's own: one below it may empty its averages, or print, at each log.
            Trainer.log(trainer, EnergyLogs(named))
        finally:
            self._is_logging = False
            # It takes what is logged for what the training was about to log.
            trainer.control.should_log = should_log

    def see(self, logs: Mapping[str, Any] | None) -> None:
        """Something is logged, by the training or by a callback of this package."""
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
                        "energyest: the metric %r is the name of a column of the trace: it is left "
                        "out of the trace",
                        name,
                    )

    def take(self) -> dict[str, float]:
        """The metrics that the training has logged since the last call."""
        taken, self._fresh = self._fresh, {}
        return taken
