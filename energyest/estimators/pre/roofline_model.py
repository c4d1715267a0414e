"""The default model of PRE: physics corrected by measurements, with uncertainty."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from energyest.errors import EstimateError
from energyest.estimators.pre.gpu_distance import distance_to_nearest, places_of
from energyest.estimators.pre.physics.fitting import fit_parameters
from energyest.estimators.pre.physics.operation_fit import TimedOperations, operation_parameters
from energyest.estimators.pre.physics.operation_table import Array, OperationTable
from energyest.estimators.pre.physics.parameters import FORMATS, POWER, STEP, Guess, Parameters
from energyest.estimators.pre.physics.power import power_shares
from energyest.estimators.pre.physics.roofline import StepTimes, step_times
from energyest.estimators.pre.predictions import Predictions
from energyest.estimators.pre.residual_gp import Correction
from energyest.gpus import Gpu
from energyest.records.workload import Workload

Pair = tuple[Workload, Gpu]
# The logarithm of a stored parameter differs by less than this from that of its first guess.
_MOST_OFF = 12.0
# Number of features.
_WIDTH = 12
# Standard deviation, over machines, of the logarithm of the CPU's time.
_HOSTS = 0.2
#: The same if `probe_host` has measured it. An assumption: half of the deviation without a probe,
#: because the probe does not include the time of the GPU's driver. Three machines of one kind, with
#: trainings of different networks, are all that was measured (`benchmarks/evidence/pre_unseen.py`).
HOST_PROBE_DEVIATION = _HOSTS / 2
# Distance to the nearest GPU with measured trainings, in logarithms of bandwidth and arithmetic
# rate, at which corrections have a correlation of 0.6. An assumption: an H100 and an H200 (0.36
# apart) share most of them, and with an A100 (1.45 from the H100), they share nothing.
_CORRECTED_WITHIN = 0.5
# Deviation of the logarithm of the energy on an unmeasured GPU, per unit of distance to the nearest
# measured one, in logarithms of bandwidth and arithmetic rate. An assumption, based on how much the
# achieved shares of the peaks differ between generations (docs/explanation/pre.md).
_PER_DISTANCE = 0.15
# The same for training on several GPUs. On two, the ratio to one GPU deviated by 0.04, and by 0.15
# and 0.2 for a network that waits for the CPU (`benchmarks/evidence/pre_scaling.py`); more of them
# were not measured.
_SEVERAL = 0.1
# Deviation of the logarithm of parameters that were fitted to hundreds of other runs.
_KNOWN = 0.15
# Deviation of the logarithm of parameters that these times have determined, and which of them whole
# steps may still move: the shares of the peaks.
_CLOSE = 0.15
_MAY_MOVE = ("peak_", "bandwidth_")
# Parameters of the CPU's time, which a machine's factor multiplies.
_OF_CPU = ("call_", "compiled_step_s")


@dataclass(frozen=True, eq=False)
class RooflineModel:
    """Fitted parameters of the physics, and corrections of step time, power and energy.

    Attributes:
        step: parameters of the time of a step.
        power: parameters of the power.
        step_correction: correction of the step time.
        power_correction: correction of the power.
        energy_correction: correction of their product; only its deviation is used.
        gpus: logarithms of bandwidth and fp32 rate of the GPUs whose power was measured, of shape
            (k, 2).
        timed_gpus: the same for all GPUs on which steps were timed.
        corrected_gpus: the same for those of the trainings in the corrections.
        hosts: machine -> time that its CPU takes ÷ time on the typical machine.
    """

    step: Parameters
    power: Parameters
    step_correction: Correction
    power_correction: Correction
    energy_correction: Correction
    gpus: Array
    timed_gpus: Array
    corrected_gpus: Array
    hosts: Parameters

    @classmethod
    def fit(
        cls,
        pairs: Sequence[Pair],
        step_s: Array,
        power_W: Array,
        *,
        hosts: Sequence[str],
        timed: Sequence[TimedOperations] = (),
        start: RooflineModel | None = None,
        calibrated: bool = True,
        begin: RooflineModel | None = None,
    ) -> RooflineModel:
        """Fit a model to measured steps.

        Args:
            pairs: workloads, each with its GPU.
            step_s: measured durations of their steps in seconds, of shape (n,).
            power_W: measured mean power of the GPUs, of shape (n,); NaN if it was not measured:
                such a step is only used to fit the physical parameters of step time.
            hosts: names of the machines, of length n; each has a CPU of its own.
            timed: timed operations of these steps, or of others. They determine the parameters of
                single operations.
            start: a model whose parameters are likely to apply; None for general guesses.
            calibrated: whether the deviations of the corrections will be compared with errors on
                left-out models. If not, they are at least those of `start`, because a few runs that
                agree do not show the errors of others.
            begin: a model fitted to nearly the same runs, as the starting point of the search.
        """
        places = places_of([gpu for _, gpu in pairs])  # checks the data sheets, too
        table, board_W = OperationTable(pairs), np.array([gpu.tdp_W for _, gpu in pairs])
        step_guesses, power_guesses = STEP, POWER
        if start is not None:
            step_guesses = {name: (value, _KNOWN) for name, value in start.step.items()}
            power_guesses = {name: (value, _KNOWN) for name, value in start.power.items()}
        by_operation = operation_parameters(
            timed, step_guesses, None if begin is None else begin.step
        )
        # Whole steps may still move the most important ones a little.
        fixed = {n: v for n, v in by_operation.items() if not n.startswith(_MAY_MOVE)}
        step_guesses = {
            name: (by_operation[name], _CLOSE) if name in by_operation else guess
            for name, guess in step_guesses.items()
            if name not in fixed
        }
        # A machine's CPU speeds up or slows down all its steps, regardless of the model.
        names, host_of = np.unique(np.array(hosts), return_inverse=True)
        host_guesses = {f"host {name}": (1.0, _HOSTS) for name in names}

        def factors(p: Parameters) -> Array:
            return np.array([p[name] for name in host_guesses])[host_of]

        found = fit_parameters(
            lambda p: step_times(table, fixed | p, factors(p)).step_s,
            step_s,
            step_guesses | host_guesses,
            hold=not calibrated,
            begin=None if begin is None else begin.step,
        )
        # The typical machine is the median of those measured: one odd machine does not shift it.
        usual = math.exp(np.median([math.log(found[name]) for name in host_guesses]))
        step = fixed | {
            name: found[name] * (usual if name.startswith(_OF_CPU) else 1.0)
            for name in step_guesses
        }
        # Runs without a name need not come from one machine, unless all lack a name.
        named = [name for name in names.tolist() if name or len(names) == 1]
        machines = {name: found[f"host {name}"] / usual for name in named}
        times = step_times(table, step, factors(found) / usual)
        has_power = np.isfinite(power_W)
        measured = (power_W / board_W)[has_power]

        def shares(p: Parameters) -> Array:
            # Fitted with computed step times, which predictions use as well.
            return power_shares(table, times, times.step_s, p)[has_power]

        power = fit_parameters(
            shares,
            measured,
            power_guesses,
            hold=not calibrated,
            begin=None if begin is None else begin.power,
        )
        features = _features(table, times)[has_power]
        step_left = np.log(step_s / times.step_s)[has_power]
        power_left = np.log(measured / shares(power))
        least: tuple[Correction | None, ...] = (None, None, None)
        if start is not None and not calibrated:
            least = (start.step_correction, start.power_correction, start.energy_correction)
        known, timed_on = places[has_power], places
        if start is not None:
            # Too few runs to calibrate do not show how well their GPU is known.
            own = slice(None) if calibrated else slice(0)
            known = np.vstack([known[own], start.gpus])
            timed_on = np.vstack([timed_on[own], start.timed_gpus])
        return cls(
            step,
            power,
            Correction.fit(features, step_left, least[0]),
            Correction.fit(features, power_left, least[1]),
            Correction.fit(features, step_left + power_left, least[2]),
            np.unique(known, axis=0),
            np.unique(timed_on, axis=0),
            np.unique(places[has_power], axis=0),
            machines,
        )

    def predict(
        self,
        pairs: Sequence[Pair],
        hosts: Sequence[str] | None = None,
        *,
        factor: float | None = None,
    ) -> Predictions:
        """Predict steps of workloads on GPUs.

        Args:
            pairs: workloads, each with a GPU.
            hosts: names of machines, of length n; by default, or if unknown, the typical machine,
                or the measured one if there is only one.
            factor: instead of `hosts`, the time that the machine's CPU takes ÷ the time on the
                typical machine, as from `probe_host`.
        """
        places = places_of([gpu for _, gpu in pairs])  # checks the data sheets, too
        table, board_W = OperationTable(pairs), np.array([gpu.tdp_W for _, gpu in pairs])
        only = next(iter(self.hosts)) if len(self.hosts) == 1 else ""
        named = hosts if hosts is not None else [only] * len(pairs)
        factors = np.array([self.hosts.get(name, 1.0) for name in named])
        unsure = np.array([0.0 if name in self.hosts else _HOSTS for name in named])
        if factor is not None:
            factors = np.full(len(pairs), factor)
            unsure = np.full(len(pairs), HOST_PROBE_DEVIATION)
        times = step_times(table, self.step, factors)
        shares = power_shares(table, times, times.step_s, self.power)
        features = _features(table, times)
        apart = distance_to_nearest(places, self.corrected_gpus)
        correlation = np.exp(-((apart / _CORRECTED_WITHIN) ** 2) / 2)
        step_left, deviation_step = self.step_correction.at(features)
        power_left, _ = self.power_correction.at(features)
        _, deviation_energy = self.energy_correction.at(features)
        slower = step_times(table, self.step, factors * np.exp(unsure))
        by_host = np.log(slower.step_s / times.step_s)
        several = np.array([_SEVERAL if w.devices > 1 else 0.0 for w, _ in pairs])
        by_time, by_power = (
            np.hypot(
                _PER_DISTANCE * distance_to_nearest(places, known),
                correction.not_carried(deviation, correlation),
            )
            for known, correction, deviation in (
                (self.timed_gpus, self.step_correction, deviation_step),
                (self.gpus, self.energy_correction, deviation_energy),
            )
        )
        return Predictions(
            times.step_s * np.exp(correlation * step_left),
            # No correction raises power above the board power.
            np.minimum(shares * np.exp(correlation * power_left), 1.0) * board_W,
            np.sqrt(deviation_step**2 + by_host**2 + by_time**2 + several**2),
            np.sqrt(deviation_energy**2 + by_host**2 + by_power**2 + several**2),
            by_time,
            by_power,
            by_host,
            several,
            np.minimum(times.cpu_s / times.step_s, 1.0),
            self.energy_correction.is_unlike(features),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON."""
        corrections = {
            name: getattr(self, f"{name}_correction").to_dict()
            for name in ("step", "power", "energy")
        }
        features = [[float(f"{v:.6g}") for v in row] for row in self.step_correction.features]
        return {
            "step": self.step,
            "power": self.power,
            "hosts": self.hosts,
            "measured_gpus": self.gpus.tolist(),
            "timed_gpus": self.timed_gpus.tolist(),
            "corrected_gpus": self.corrected_gpus.tolist(),
            "features": features,
            "corrections": corrections,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> RooflineModel:
        """Restore a model from `to_dict`.

        Raises:
            EstimateError: something is missing or invalid.
        """
        try:
            features = np.array(content["features"], float)
            step, power, energy = (
                Correction.from_dict(content["corrections"][name], features)
                for name in ("step", "power", "energy")
            )
            model = cls(
                _parameters(content["step"], _guesses(STEP)),
                _parameters(content["power"], _guesses(POWER)),
                step,
                power,
                energy,
                np.array(content["measured_gpus"], float),
                np.array(content["timed_gpus"], float),
                np.array(content["corrected_gpus"], float),
                _parameters(content["hosts"], dict.fromkeys(content["hosts"], 1.0)),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, EstimateError):
                raise
            raise EstimateError(f"not a stored model: {error!r}") from error
        for known in (model.gpus, model.timed_gpus, model.corrected_gpus):
            if known.ndim != 2 or known.shape[1] != 2 or not np.isfinite(known).all():
                raise EstimateError("not a stored model: it names no measured GPU")
        if features.shape[1] != _WIDTH:
            raise EstimateError(f"not a stored model: it has {features.shape[1]} features")
        return model


def _guesses(table: Mapping[str, Guess]) -> dict[str, float]:
    return {name: value for name, (value, _) in table.items()}


def _parameters(content: Mapping[str, Any], guesses: Mapping[str, float]) -> Parameters:
    """Stored parameters, each within bounds around its first guess."""
    if not isinstance(content, Mapping):
        raise EstimateError("not a stored model: its parameters have no names")
    values = {name: float(content[name]) for name in guesses}
    for name, value in values.items():
        if not (value > 0 and abs(math.log(value / guesses[name])) < _MOST_OFF):
            raise EstimateError(f"not a stored model: its parameter {name} is {value!r}")
    return values


def _features(table: OperationTable, times: StepTimes) -> Array:
    """Features that distinguish kinds of training, of shape (n, d): shares and logarithms."""
    conv, other, moved = table.shares_of_peak(times.step_s)
    parts = [times.math_s, times.memory_s, times.start_s]
    return np.column_stack(
        [
            np.log(times.gpu_s / times.cpu_s),
            np.log(times.step_s),
            *(2 * part / times.gpu_s for part in parts),
            2 * times.transfer_s / times.step_s,
            *(np.log(np.maximum(value, 1e-3)) / 2 for value in (conv, other, moved)),
            *((table.format == index).astype(float) for index in range(len(FORMATS))),
        ]
    )
