"""How good the choices of `advise` before training are, compared with simpler ways to choose.

The trainings of `data/sweep.jsonl.gz` are predicted with their architecture left out of the fit.
From random menus of them, the one with the lowest predicted energy per sample is chosen, and
compared with the truly cheapest. The packaged model is then applied to trainings to which it was
not fitted: the 72 in `examples/data`, six networks on an H100 and an H200; and those of
`zeus_nsdi23` on V100, P100 and RTX 6000, which no fit has seen. If zeus_nsdi23 is missing, the rest
is still done, and the exit status is 2.

    python -m benchmarks.evidence.advise_accuracy
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from benchmarks.common import older_trainings
from benchmarks.common.data_folder import missing
from benchmarks.common.head import print_head
from benchmarks.common.real_trainings import choices as choice_traces
from benchmarks.common.sweep_table import convolutions, rows, runs
from benchmarks.common.unseen import predict_unseen
from energyest.estimators.pre.fitted import FittedPreModel, packaged
from energyest.estimators.pre.training_data import TrainedRun, runs_of
from energyest.gpus import peak_flops_per_s
from energyest.tradeoff.advisor import surely_beaten
from energyest.tradeoff.pareto import undominated

CONFIDENCE = 0.9
MENUS, SIZES = 2000, (3, 6, 12)


@dataclass(frozen=True)
class Prediction:
    """A model's prediction for a training that it has not seen."""

    energy_J: float
    step_s: float
    half: float
    is_unlike: bool


def predicted_by(model: FittedPreModel, asked: Sequence[TrainedRun]) -> list[Prediction]:
    found = model.predict([run.pair for run in asked])
    halves = model.half_width(found, CONFIDENCE)
    columns = (found.energy_J, found.step_s, halves, found.is_unlike)
    return [Prediction(*values) for values in zip(*columns, strict=True)]


def left_out(made: Sequence[TrainedRun], group_of: Callable[[TrainedRun], str]) -> list[Prediction]:
    """The prediction for each run by a fit without its group, in the order of the runs."""
    found = predict_unseen(made, group_of, others=convolutions(), confidence=CONFIDENCE)
    columns = (found.step_s * found.power_W, found.step_s, found.half, found.is_unlike)
    return [Prediction(*values) for values in zip(*columns, strict=True)]


# ------------------------------------------------------------------ what people choose by


def _flops(run: TrainedRun) -> float:
    return run.workload.flops_per_step / run.workload.batch_size


def _parameters(run: TrainedRun) -> float:
    return float(run.workload.parameters)


def _tdp(run: TrainedRun) -> float:
    return run.gpu.tdp_W


def _tdp_flops(run: TrainedRun) -> float:
    """TDP × time at the peak, as Green Algorithms and MLCO2 if no time is known."""
    return run.gpu.tdp_W * _flops(run) / peak_flops_per_s(run.gpu, run.workload.precision)


BASELINES: dict[str, Callable[[TrainedRun], float]] = {
    "fewest FLOPs": _flops,
    "fewest parameters": _parameters,
    "TDP × FLOPs ÷ peak": _tdp_flops,
}


# ------------------------------------------------------------------ menus of settings


def menus(groups: Sequence[Sequence[int]], models: Sequence[str], size: int) -> Iterator[list[int]]:
    """Random menus of settings of different architectures, each menu from one group."""
    chance = np.random.default_rng(0)
    usable = [group for group in groups if len({models[i] for i in group}) >= size]
    weights = np.array([len(group) for group in usable], float)
    for _ in range(MENUS if usable else 0):
        group = usable[chance.choice(len(usable), p=weights / weights.sum())]
        menu: dict[str, int] = {}
        for i in chance.permutation(group):
            menu.setdefault(models[i], int(i))
        yield list(menu.values())[:size]


def show_menus(
    title: str,
    groups: Sequence[Sequence[int]],
    made: Sequence[TrainedRun],
    said: Sequence[Prediction],
) -> None:
    per_sample_J = np.array([run.energy_J / run.workload.batch_size for run in made])
    batch = np.array([run.workload.batch_size for run in made])
    scores = {"PRE": np.array([f.energy_J for f in said]) / batch}
    scores |= {name: np.array([score(run) for run in made]) for name, score in BASELINES.items()}
    models = [run.model for run in made]
    print(f"\n{title}; {MENUS} menus of each size")
    header = ("of", 4), ("regret mean", 13), ("median", 9), ("right", 8), ("rank corr.", 12)
    print(f"  {'chosen by':<22}" + "".join(f"{name:>{width}}" for name, width in header))
    for size in SIZES:
        drawn = list(menus(groups, models, size))
        if not drawn:
            print(f"  no group holds {size} architectures")
            continue
        menu = np.array(drawn)
        truth = per_sample_J[menu]
        for name, score in scores.items():
            chosen = truth[np.arange(len(menu)), score[menu].argmin(axis=1)]
            _line(name, size, chosen / truth.min(axis=1) - 1, spearman(score[menu], truth))
        regrets = truth / truth.min(axis=1, keepdims=True) - 1
        _line("at random", size, regrets.ravel(), 0.0)
        show_fronts(menu, made, said)


def spearman(scores: np.ndarray, truth: np.ndarray) -> float:
    """Mean rank correlation over the menus, which are rows."""
    ranks = [rankdata(values, axis=1) - (values.shape[1] + 1) / 2 for values in (scores, truth)]
    products = [
        np.sum(a * b, axis=1) for a, b in ((ranks[0], ranks[1]), *zip(ranks, ranks, strict=True))
    ]
    return float(np.mean(products[0] / np.sqrt(products[1] * products[2])))


def _line(name: str, size: int, regret: np.ndarray, rank: float) -> None:
    mean, median = 100 * regret.mean(), 100 * np.median(regret)
    right = 100 * (regret == 0).mean()
    print(
        f"  {name:<22}{size:>4}{mean:>12.0f}%{median:>8.0f}%{right:>7.0f}%{rank:>12.2f}", flush=True
    )


def show_fronts(menu: np.ndarray, made: Sequence[TrainedRun], said: Sequence[Prediction]) -> None:
    """The share of the true front of energy and time that the two marks of `advise` cover."""
    batch = np.array([run.workload.batch_size for run in made])
    true = np.array([[run.energy_J, run.step_s] for run in made]) / batch[:, None]
    expected = np.array([[f.energy_J, f.step_s] for f in said]) / batch[:, None]
    half = np.array([f.half for f in said])
    counts = np.zeros(6)
    for m in menu:
        is_true, on_front = undominated(true[m]), undominated(expected[m])
        may_be = ~surely_beaten(expected[m, 0], expected[m, 1], np.zeros(len(m)), half[m])
        counts += [
            is_true.sum(),
            (is_true & on_front).sum(),
            (is_true & may_be).sum(),
            (~is_true).sum(),
            (~is_true & on_front).sum(),
            (~is_true & may_be).sum(),
        ]
    front, kept, may_keep, beaten, wrong, may_wrong = counts
    print(
        f"    true front: {100 * kept / front:.0f} % are on_front, {100 * may_keep / front:.1f} % "
        f"may_be_on_front; of the others {100 * wrong / beaten:.0f} % and "
        f"{100 * may_wrong / beaten:.0f} %"
    )


# ------------------------------------------------------------------ which GPU


def show_gpus(title: str, made: Sequence[TrainedRun], said: Sequence[Prediction]) -> None:
    """Pairs of runs of one setting on two GPUs: which GPU is cheaper."""
    settings: dict[tuple[object, ...], list[int]] = {}
    for i, run in enumerate(made):
        load = run.workload
        key = (run.model, load.model, load.batch_size, load.precision, load.optimizer, load.loop)
        settings.setdefault((*key, load.flops_per_step), []).append(i)
    pairs = [
        (i, j)
        for places in settings.values()
        for i, j in itertools.combinations(places, 2)
        if made[i].gpu.name != made[j].gpu.name
    ]
    print(f"\n{title}: {len(pairs)} pairs of one setting on two GPUs")
    if not pairs:
        return
    truth = np.array([[made[i].energy_J for i in pair] for pair in pairs])
    names = [" / ".join(sorted(made[i].gpu.name for i in pair)) for pair in pairs]
    expected = np.array([[said[i].energy_J for i in pair] for pair in pairs])
    scores = {
        "PRE": expected,
        "lowest TDP": np.array([[_tdp(made[i]) for i in pair] for pair in pairs]),
        "TDP × FLOPs ÷ peak": np.array([[_tdp_flops(made[i]) for i in pair] for pair in pairs]),
    }
    print(f"  {'chosen by':<22}{'regret mean':>13}{'median':>9}{'right':>8}")
    for group in ["all", *sorted(set(names))]:
        of = np.array([group in ("all", name) for name in names])
        print(f"   {group}: {of.sum()} pairs")
        for name, score in scores.items():
            chosen = truth[of][np.arange(of.sum()), score[of].argmin(axis=1)]
            _gpu_line(name, chosen / truth[of].min(axis=1) - 1)
        _gpu_line("at random", (truth[of] / truth[of].min(axis=1, keepdims=True) - 1).ravel())
    show_fronts(np.array(pairs), made, said)
    off = np.log(expected / truth)
    alone, ratio = _rms(off), _rms(off[:, 0] - off[:, 1])
    print(
        f"  deviation of one energy {alone:.2f}, of the ratio of two GPUs' {ratio:.2f}: "
        f"{ratio / alone / np.sqrt(2):.2f} times as much as of independent errors"
    )


def _gpu_line(name: str, regret: np.ndarray) -> None:
    mean, median = 100 * regret.mean(), 100 * np.median(regret)
    print(f"  {name:<22}{mean:>12.0f}%{median:>8.0f}%{100 * (regret == 0).mean():>7.0f}%")


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


# ------------------------------------------------------------------ interpolation or extrapolation


def show_errors(title: str, made: Sequence[TrainedRun], said: Sequence[Prediction]) -> None:
    off = np.log([f.energy_J / run.energy_J for f, run in zip(said, made, strict=True)])
    held = np.abs(off) <= [f.half for f in said]
    unlike = np.array([f.is_unlike for f in said])
    error = 100 * np.abs(np.expm1(off))
    print(f"\n{title}; absolute error of the energy in %")
    for name, chosen in (("like one measured", ~unlike), ("unlike all measured", unlike)):
        if chosen.any():
            models = len({run.model for run, is_of in zip(made, chosen, strict=True) if is_of})
            print(
                f"  {name:<20}{chosen.sum():>4} trainings of {models:>2} architectures: mean "
                f"{error[chosen].mean():.1f}, median {np.median(error[chosen]):.1f}, nine in ten "
                f"within {np.quantile(error[chosen], 0.9):.1f}; intervals hold "
                f"{100 * held[chosen].mean():.0f} %"
            )


def show_sharing(made: Sequence[TrainedRun], said: Sequence[Prediction]) -> None:
    """Print how strongly the errors of two architectures on one GPU are correlated."""
    off = np.log([f.energy_J / run.energy_J for f, run in zip(said, made, strict=True)])
    print("\nratio of two architectures on one GPU, against independent errors")
    for gpu in sorted({run.gpu.name for run in made}):
        places = [i for i, run in enumerate(made) if run.gpu.name == gpu]
        ratios = [
            off[i] - off[j]
            for i, j in itertools.combinations(places, 2)
            if made[i].model != made[j].model
        ]
        alone, ratio = _rms(off[places]), _rms(np.array(ratios))
        print(
            f"  {gpu}: deviation of one energy {alone:.2f}, of the ratio {ratio:.2f}: "
            f"{ratio / alone / np.sqrt(2):.2f} times as much"
        )


def of_each_gpu(made: Sequence[TrainedRun]) -> list[list[int]]:
    gpus = [run.gpu.name for run in made]
    return [list(group) for _, group in pd.Series(range(len(made))).groupby(gpus)]


def choices() -> list[TrainedRun]:
    """`examples/data`: a row for each network and GPU, with the medians of six repetitions."""
    traces = choice_traces()
    repetitions: dict[tuple[str, str], list[TrainedRun]] = {}
    for trace, run in zip(traces.values(), runs_of(list(traces.values())), strict=True):
        name = trace.meta["hparams"]["architecture"]
        repetitions.setdefault((name, run.gpu.name), []).append(replace(run, model=name))
    return [
        replace(
            same[0],
            step_s=float(np.median([run.step_s for run in same])),
            power_W=float(np.median([run.power_W for run in same])),
        )
        for same in repetitions.values()
    ]


def main() -> int:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    began_s = time.perf_counter()
    absent = missing(*older_trainings.FILES.values())
    if absent is not None:
        print(f"advise_accuracy: {absent}", file=sys.stderr, flush=True)
    print_head(__file__, "numpy", "scipy")
    table = rows()
    made = runs(table)
    print(f"{len(made)} trainings of {len({run.model for run in made})} architectures")
    said = left_out(made, lambda run: run.model)
    show_errors("unseen architecture", made, said)
    show_errors(
        "unseen GPU (H100 from H200 and back)", made, left_out(made, lambda run: run.gpu.name)
    )
    show_sharing(made, said)
    any_kind = of_each_gpu(made)
    show_menus("settings of any kind on one GPU, energy of a sample", any_kind, made, said)
    kinds = [
        f"{row['gpu']} {row['size']}" if row["model"].startswith("torchvision/") else ""
        for row in table
    ]
    images = [list(g) for kind, g in pd.Series(range(len(made))).groupby(kinds) if kind]
    show_menus("networks for images of one size on one GPU", images, made, said)
    own = choices()
    by_packaged = predicted_by(packaged(), own)
    show_errors(
        "six networks on an H100 and an H200 (examples/data), packaged model", own, by_packaged
    )
    show_menus("networks of examples/data on one GPU", of_each_gpu(own), own, by_packaged)
    show_gpus("examples/data, by the packaged model", own, by_packaged)
    print(f"\n{time.perf_counter() - began_s:.0f} s", flush=True)
    if absent is not None:
        return 2
    older = list(older_trainings.trained())
    by_packaged = predicted_by(packaged(), older)
    show_errors("GPUs not measured (zeus_nsdi23)", older, by_packaged)
    show_gpus("zeus_nsdi23, by the packaged model", older, by_packaged)
    print(f"\n{time.perf_counter() - began_s:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
