"""The rule of Lightning's `EarlyStopping`, and its application to a trace."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from energyest.arrays import FloatArray
from energyest.records.meta import read_count, read_number, read_positive, read_text
from energyest.records.trace import EnergyTrace

# Lightning's metrics have single precision, which affects what counts as an improvement.
Values = NDArray[np.float32]


@dataclass(frozen=True)
class StoppingRule:
    """The settings of an `EarlyStopping`; the defaults are Lightning's.

    Attributes:
        monitor: name of the metric.
        mode: "min" if lower is better, or "max".
        patience: number of checks without improvement after which training stops.
        min_delta: smallest change that counts as an improvement (exclusive).
        stopping_threshold: training stops at once if the metric is better than this.
        divergence_threshold: training stops at once if the metric is worse than this.
        check_finite: whether training stops at once if the metric is NaN or infinite.
        on_train_epoch_end: whether the check is at the end of each epoch, possibly with the metric
            of an earlier validation; otherwise it is at the end of each validation.
        best: the best value before the trace, or before its part since the last resumption.
        waited: number of checks without improvement until then.
    """

    monitor: str
    mode: str = "min"
    patience: int = 3
    min_delta: float = 0.0
    stopping_threshold: float | None = None
    divergence_threshold: float | None = None
    check_finite: bool = True
    on_train_epoch_end: bool = True
    best: float | None = None
    waited: int = 0

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> StoppingRule | None:
        """Read an entry of a trace's meta, which is not trusted; None if it names no metric."""
        monitor, patience = read_text(entry, "monitor"), read_count(entry, "patience")
        if monitor is None:
            return None
        return cls(
            monitor,
            mode="max" if entry.get("mode") == "max" else "min",
            patience=cls.patience if patience is None else patience,
            min_delta=read_number(entry, "min_delta") or 0.0,
            stopping_threshold=read_number(entry, "stopping_threshold"),
            divergence_threshold=read_number(entry, "divergence_threshold"),
            check_finite=entry.get("check_finite") is not False,
            on_train_epoch_end=entry.get("on_train_epoch_end") is not False,
            best=read_number(entry, "best"),
            waited=read_count(entry, "waited") or 0,
        )

    @property
    def sign(self) -> int:
        """The factor for the metric so that lower is better."""
        return -1 if self.mode == "max" else 1

    def falls(self, value: float | None) -> np.float32 | None:
        """A threshold, signed so that lower is better; None if there is none."""
        return None if value is None else np.float32(self.sign * value)


class Watch:
    """Applies an `EarlyStopping` rule to one series, or to many in parallel.

    Args:
        rule: the rule.
        patience: its patience, adjusted if one check here represents several.
    """

    def __init__(self, rule: StoppingRule, patience: int) -> None:
        self._rule, self._patience = rule, patience
        self._least = np.float32(rule.min_delta)
        self._good = rule.falls(rule.stopping_threshold)
        self._bad = rule.falls(rule.divergence_threshold)
        self.best: Values = np.full(1, math.inf, dtype=np.float32)
        self.waited: NDArray[np.intp] = np.zeros(1, dtype=np.intp)

    def restore(self) -> None:
        """Restore the state in the rule."""
        best = self._rule.falls(self._rule.best)
        self.best = np.full(1, math.inf if best is None else best, dtype=np.float32)
        self.waited = np.full(1, self._rule.waited, dtype=np.intp)

    def check(self, values: Values) -> NDArray[np.bool_]:
        """Check the newest value of each series; return which series stop.

        Follows `EarlyStopping._evaluate_stopping_criteria` of pytorch_lightning 2.6.

        Args:
            values: shape (series,); lower is better.
        """
        at_once = np.zeros(len(values), dtype=np.bool_)
        if self._rule.check_finite:
            at_once |= ~np.isfinite(values)
        if self._good is not None:
            at_once |= values < self._good
        if self._bad is not None:
            at_once |= values > self._bad
        better = ~at_once & (values + self._least < self.best)
        self.best = np.where(better, values, self.best)
        # An immediate stop does not count as a check without improvement.
        self.waited = np.where(better, 0, self.waited + ~at_once)
        is_over: NDArray[np.bool_] = at_once | (~better & (self.waited >= self._patience))
        return is_over

    def spread(self, series: int) -> None:
        """Split one series into many with the same state."""
        self.best, self.waited = np.repeat(self.best, series), np.repeat(self.waited, series)

    def keep(self, which: NDArray[np.bool_]) -> None:
        """Keep only some of the series."""
        self.best, self.waited = self.best[which], self.waited[which]


class Observed:
    """The values of a metric in a trace, and the rows in which the rule is applied to them.

    Args:
        trace: trace with the metric.
        rule: rule that watches the metric.

    Attributes:
        values: shape (rows,), NaN where the metric was not logged; lower is better.
        fresh: rows in which the metric was logged.
        finite: the finite values.
        period: rows from one value to the next, 1 or more; 1 if unknown.
        in_each: whether every row is checked, if necessary with an older value.
        patience: patience in rows; less than the rule's if a row has several checks.
        checks_in_row: number of checks per row.
    """

    def __init__(self, trace: EnergyTrace, rule: StoppingRule) -> None:
        self._rule, self._rows = rule, len(trace)
        self.values: FloatArray = rule.sign * trace.column(rule.monitor)
        self.fresh: NDArray[np.intp] = np.flatnonzero(~np.isnan(self.values))
        self.in_each = rule.on_train_epoch_end and trace.unit == "epoch"
        validated = trace.column("validation_s") > 0
        of_validation = bool(validated.any() and validated[self.fresh].all())
        every = read_positive(trace.meta, "validation_every_n_rows")
        self.checks_in_row = 1
        if every is not None and every < 1 and not rule.on_train_epoch_end:
            self.checks_in_row = round(1 / every)
        self.patience = math.ceil(rule.patience / self.checks_in_row)
        self.finite: FloatArray = self.values[np.isfinite(self.values)]
        self.period = 1.0
        if len(self.fresh) > 1:
            spanned = float(self.fresh[-1] - self.fresh[0])
            self.period = max(1.0, spanned / (len(self.fresh) - 1))
        # A NaN value cannot be distinguished from a missing one. If validations do not decide it, a
        # metric that is present in most rows is assumed to have been logged in each row.
        expected = validated if of_validation else np.full(len(validated), self._is_usual())
        # With check_finite, training stops at NaN, so only the last row of a finished training can
        # have one.
        nothing = np.isnan(self.values) & expected
        if rule.check_finite:
            nothing[: max(0, self._rows - 1)] = False
            nothing &= read_text(trace.meta, "status") == "finished"
        self._is_nan = nothing
        # If the callback's state was restored, it applies before this row.
        first = read_count(trace.meta, "earlier_rows") or 0
        self._restored = first if rule.best is not None and first < self._rows else None
        self._first = self._restored or 0

    def _is_usual(self) -> bool:
        return 2 * len(self.fresh) > self._rows

    def follow(self, watch: Watch) -> int | None:
        """Apply the rule to the values so far.

        Returns:
            The number of rows after which it has stopped the training; None if it has not.
        """
        value = math.nan
        for row in range(self._rows):
            if row == self._restored:
                watch.restore()
            is_fresh = not math.isnan(self.values[row])
            value = float(self.values[row]) if is_fresh else value
            if row < self._first:
                continue
            if self._is_nan[row]:
                newest = math.nan
            elif is_fresh or (self.in_each and not math.isnan(value)):
                newest = value
            else:
                continue
            if watch.check(np.array([newest], dtype=np.float32))[0]:
                return row + 1
        return None
