"""Possible futures of a metric: curves that fit its values so far, with noise."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtr

from energyest.arrays import FloatArray

#: Number of values needed to estimate the spread around a curve.
MIN_VALUES = 4
# The newest values say most about the future; fitting all of a long training would be slow.
_MOST_VALUES = 200
# No curve describes a whole training. Curves are fitted to each of these shares of the newest
# values, with equal weight.
_SHARES = (1.0, 0.7, 0.5, 0.35, 0.25)
# Exponents of power laws; time constants of exponentials, as shares of the number of values.
_EXPONENTS = np.geomspace(0.1, 3.0, 10)
_CONSTANTS = np.geomspace(0.1, 8.0, 12)
# Share of its gain that a metric loses again within the same number of values, for example because
# of overfitting; and the prior probability that it loses any.
_LOSSES = np.array([0.03, 0.1, 0.3, 1.0, 3.0])
_LOSES = 0.3
# Values further off than this many robust standard deviations get less weight (Huber).
_OUTLIER = 2.5
# The correlation of neighbours is shrunk as if this many uncorrelated values were added.
_ALIKE_WEIGHT = 5.0
_MOST_ALIKE = 0.9
# With fewer degrees of freedom, the noise would be unbounded.
_LEAST_FREEDOM = 2.0
# Keep logarithms of a spread of 0, and normal quantiles of 0 and 1, finite.
_LEAST_SQUARES = 1e-24
_LEAST_CHANCE = 1e-12
# Number of values computed at once.
_BLOCK = 32


class Futures:
    """Future values of a metric, drawn from curves with noise.

    The curves are a + b * h(t), where t counts the values. h is a power law, t**-c, or an
    exponential, exp(-t / c), optionally plus a straight line that takes back the gain. Each curve
    is weighted by its probability (under normal noise; a, b and the logarithm of the noise have
    flat priors) and drawn with its uncertainty. This is the model averaging of Domhan et al.,
    "Speeding up automatic hyperparameter optimization of deep neural networks by extrapolation of
    learning curves" (IJCAI 2015), with a grid of c instead of a Markov chain. The noise is
    first-order autoregressive.

    Args:
        values: shape (values,), `MIN_VALUES` or more, finite.
        draws: number of futures.
        random: random number generator.
    """

    def __init__(self, values: FloatArray, draws: int, random: np.random.Generator) -> None:
        y = values[-_MOST_VALUES:]
        t: FloatArray = np.arange(len(values) - len(y) + 1, len(values) + 1, dtype=np.float64)
        sizes = [round(share * len(y)) for share in _SHARES]
        sizes = [size for size in sizes if size >= MIN_VALUES]
        # The draws are divided equally among the sizes, up to one.
        parts = [
            _Lines.drawn(t[-size:], y[-size:], len(range(number, draws, len(sizes))), random)
            for number, size in enumerate(sizes)
        ]
        self._random = random
        self._lines = _Lines.joined(parts)
        self._t, self._place = float(t[-1]), _BLOCK
        self._block: FloatArray = self._lines.at(np.full(1, self._t))
        self._off: FloatArray = y[-1] - self._block[:, 0]

    def next(self) -> FloatArray:
        """The next value of each future, of shape (futures,)."""
        if self._place == _BLOCK:
            self._block = self._lines.at(self._t + np.arange(1.0, _BLOCK + 1, dtype=np.float64))
            self._t, self._place = self._t + _BLOCK, 0
        alike, spread = self._lines.alike, self._lines.spread
        new = self._random.standard_normal(len(self._off)) * np.sqrt(1 - alike**2)
        self._off = alike * self._off + spread * new
        values: FloatArray = self._block[:, self._place] + self._off
        self._place += 1
        return values

    def keep(self, which: NDArray[np.bool_]) -> None:
        """Keep only some of the futures."""
        self._lines = self._lines.take(which)
        self._off, self._block = self._off[which], self._block[which]


@dataclass(frozen=True)
class _Shapes:
    """Curves that fall from 1 to 0 until now, plus what they lose; fields have shape (curves,).

    Attributes:
        begin: the first value that they are fitted to.
        end: the last value that they are fitted to.
        exponent: exponent of power laws; 0 for exponentials.
        rate: rate of exponentials; 0 for power laws.
        loss: share of the gain that is lost over as many values as from `begin` to `end`.
    """

    begin: FloatArray
    end: FloatArray
    exponent: FloatArray
    rate: FloatArray
    loss: FloatArray

    @classmethod
    def over(cls, t: FloatArray) -> _Shapes:
        """All candidate curves for the values at `t`."""
        losses = np.concatenate([[0.0], _LOSSES])
        exponent = np.concatenate([_EXPONENTS, np.zeros(len(_CONSTANTS))])
        rate = np.concatenate([np.zeros(len(_EXPONENTS)), 1 / (_CONSTANTS * len(t))])
        number = len(losses) * len(exponent)
        return cls(
            np.full(number, t[0]),
            np.full(number, t[-1]),
            np.tile(exponent, len(losses)),
            np.tile(rate, len(losses)),
            np.repeat(losses, len(exponent)),
        )

    def at(self, t: FloatArray) -> FloatArray:
        """The values of the curves, of shape (curves, len(t))."""
        begin, end = self.begin[:, None], self.end[:, None]
        now = self._saturating(end)
        gained = (self._saturating(t) - now) / (1 - now)
        lost: FloatArray = self.loss[:, None] * (t - end) / (end - begin + 1)
        return gained + lost

    def _saturating(self, t: FloatArray) -> FloatArray:
        begin, exponent, rate = self.begin[:, None], self.exponent[:, None], self.rate[:, None]
        curves: FloatArray = np.exp(-exponent * np.log(t / begin) - rate * (t - begin))
        return curves


@dataclass(frozen=True)
class _Lines(_Shapes):
    """Curves with a, b and noise.

    Attributes:
        spread: standard deviation of the noise.
        alike: correlation of neighbouring noise values.
        level: a.
        gain: b.
    """

    spread: FloatArray
    alike: FloatArray
    level: FloatArray
    gain: FloatArray

    @classmethod
    def drawn(cls, t: FloatArray, y: FloatArray, draws: int, random: np.random.Generator) -> _Lines:
        """Draw curves that may have produced the values `y` at `t`."""
        shapes = _Shapes.over(t)
        fit = _Fit(shapes.at(t), shapes.loss > 0, y)
        chosen = random.choice(len(fit.probability), size=draws, p=fit.probability)
        spread, level, gain = fit.draw(chosen, random)
        of_shapes = {one.name: getattr(shapes, one.name)[chosen] for one in fields(_Shapes)}
        alike = np.full(draws, fit.alike)
        return cls(**of_shapes, spread=spread, alike=alike, level=level, gain=gain)

    @classmethod
    def joined(cls, parts: list[_Lines]) -> _Lines:
        """Concatenate several sets of curves."""
        return cls(
            *(np.concatenate([getattr(part, one.name) for part in parts]) for one in fields(cls))
        )

    def take(self, which: NDArray[np.bool_]) -> _Lines:
        """Select some of the curves."""
        return _Lines(*(getattr(self, one.name)[which] for one in fields(self)))

    def at(self, t: FloatArray) -> FloatArray:
        """The values of the curves without noise, of shape (curves, len(t))."""
        return self.level[:, None] + self.gain[:, None] * super().at(t)


class _Fit:
    """Linear fits of a metric against each of many curves.

    Args:
        h: shape (curves, values).
        loses: shape (curves,), which of them lose part of the gain; these have a gain above 0.
        y: shape (values,), the metric.

    Attributes:
        probability: shape (curves,).
        alike: correlation of neighbouring noise values.
    """

    def __init__(self, h: FloatArray, loses: NDArray[np.bool_], y: FloatArray) -> None:
        weights = np.ones(len(y))
        off = self._fit(h, y, weights)
        usual = 1.4826 * float(np.median(np.abs(off - np.median(off))))
        beyond = np.abs(off) / (_OUTLIER * usual) if usual > 0 else np.ones(len(y))
        off = self._fit(h, y, 1 / np.maximum(beyond, 1.0))
        together = float(off[1:] @ off[:-1])
        alike = together / max(float(off @ off), _LEAST_SQUARES) * len(y) / (len(y) + _ALIKE_WEIGHT)
        self.alike = min(max(alike, 0.0), _MOST_ALIKE)
        # Correlated values carry less information than independent ones.
        self._share = (1 - self.alike) / (1 + self.alike)
        self._freedom = max(self._share * self._weight - 2, _LEAST_FREEDOM)
        self._variance = self._squares / self._freedom * self._share
        self._loses = loses
        error = np.sqrt(self._variance / (self._width * self._share))
        gains = np.where(loses, stdtr(self._freedom, self._gain / error), 1.0)
        prior = np.where(loses, _LOSES / loses.sum(), (1 - _LOSES) / (~loses).sum())
        log_p = (
            -self._freedom / 2 * np.log(self._squares)
            - np.log(self._width) / 2
            + np.log(np.maximum(gains, _LEAST_CHANCE))
            + np.log(prior)
        )
        p = np.exp(log_p - log_p.max())
        self.probability: FloatArray = p / p.sum()

    def _fit(self, h: FloatArray, y: FloatArray, weights: FloatArray) -> FloatArray:
        """Fit all curves; return the residuals of the best one."""
        self._weight = float(weights.sum())
        self._mean_h, self._mean = h @ weights / self._weight, float(y @ weights) / self._weight
        from_mean = h - self._mean_h[:, None]
        self._width = from_mean**2 @ weights
        self._gain = from_mean @ (weights * (y - self._mean)) / self._width
        off = y - self._mean - self._gain[:, None] * from_mean
        self._squares = off**2 @ weights + _LEAST_SQUARES
        best: FloatArray = off[np.argmin(self._squares)]
        return best

    def draw(
        self, chosen: NDArray[np.intp], random: np.random.Generator
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Draw lines with their uncertainty.

        Args:
            chosen: shape (draws,), indices of the curves.
            random: random number generator.

        Returns:
            The standard deviation of the noise, `a` and `b`, each of shape (draws,).
        """
        chi2 = random.chisquare(self._freedom, len(chosen))
        spread = np.sqrt(self._variance[chosen] * self._freedom / chi2)
        error = spread / np.sqrt(self._width[chosen] * self._share)
        least = np.where(self._loses[chosen], ndtr(-self._gain[chosen] / error), 0.0)
        chance = least + random.random(len(chosen)) * (1 - least)
        gain = self._gain[chosen] + error * ndtri(np.clip(chance, _LEAST_CHANCE, 1 - _LEAST_CHANCE))
        mean = self._mean + random.standard_normal(len(chosen)) * spread / np.sqrt(
            self._weight * self._share
        )
        return spread, mean - gain * self._mean_h[chosen], gain
