"""The trade-off analysis on 150 finished trainings by the authors of the method.

Ten pairs of an architecture and a GPU, from five architectures and three GPUs, with 15 repetitions
each (S. del Rey, GAISSA-UPC/seaa2023_ect, CC BY 4.0; not part of this repository). Prints the
results of the functions of `energyest.tradeoff`, and the same figures from plain pandas. Exits with
1 if the two differ, with 2 if data or scikit-posthocs are missing.

    python -m benchmarks.evidence.tradeoff_delrey [--plots FOLDER]
"""

from __future__ import annotations

import argparse
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.common.head import print_head
from benchmarks.common.real_trainings import delrey2023_table
from energyest.carbon import co2e_kg
from energyest.tradeoff import (
    cheapest_within,
    compare_groups,
    interaction,
    match_gpu,
    pareto_front,
    savings,
)

CHOICE = ["model", "gpu"]
# The three architectures that were trained on both of these GPUs.
BOTH = ["RTX 3070", "RTX 3090"]
THREE = ["mobilenet_v2", "nasnet_mobile", "resnet50"]


def main() -> int:
    """Print the analysis; return 1 if plain pandas gives a different figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plots", type=Path, help="folder for the pictures")
    options = parser.parse_args()
    if find_spec("scikit_posthocs") is None:
        print("tradeoff_delrey: missing: pip install scikit-posthocs", file=sys.stderr)
        return 2
    pd.set_option("display.width", 120, "display.max_columns", 20, "display.precision", 4)
    runs = delrey2023_table()
    three = runs[runs["model"].isin(THREE) & runs["gpu"].isin(BOTH)]
    print_head(__file__, "scipy", "statsmodels", "scikit-posthocs")
    print(f"{len(runs)} runs, {runs.groupby(CHOICE).ngroups} choices of architecture and GPU")
    checks = [*_choices(runs), *_factors(three)]
    _groups(runs)
    _match(runs)
    if options.plots is not None:
        _plot(runs, three, options.plots)
    print()
    wrong = 0
    for text, found, expected in checks:
        agrees = abs(found - expected) <= 1e-9 * abs(expected)
        wrong += not agrees
        print(f"{'agrees' if agrees else 'DIFFERS'}: {text}: {found:.4f}, by pandas {expected:.4f}")
    return 1 if wrong else 0


def _title(text: str) -> None:
    print(f"\n{text}\n")


def _choices(runs: pd.DataFrame) -> list[tuple[str, float, float]]:
    _title("Front of energy and F1, medians of choices (front_share: of resampled repetitions)")
    print(pareto_front(runs, quality="f1", by=CHOICE).to_string(index=False))
    _title("The cheapest within 2 points of the best F1")
    print(cheapest_within(runs, 0.02, quality="f1", by=CHOICE).to_string(index=False))
    pairs = savings(runs, quality="f1")
    _title("The largest savings, 90 % bootstrap intervals")
    print(pairs.head(5).drop(columns=["from_runs", "to_runs"]).to_string(index=False))
    best = pairs.iloc[0]
    saved_J = runs.groupby(CHOICE)["energy_J"].median()
    expensive, cheap = ("vgg16", "RTX 3090"), ("mobilenet_v2", "RTX 3070")
    median = runs.groupby(CHOICE)["f1"].median()
    kg = co2e_kg([saved_J[expensive], saved_J[cheap]], "ES")
    print(f"\nIn Spain, {kg[0]:.3f} against {kg[1]:.3f} kg CO2e a training")
    assert (best.from_model, best.from_gpu, best.to_model, best.to_gpu) == (*expensive, *cheap)
    return [
        ("largest saving (%)", 100 * best.saving, 100 * (1 - saved_J[cheap] / saved_J[expensive])),
        ("points of F1", 100 * best.quality_change, 100 * (median[cheap] - median[expensive])),
    ]


def _factors(three: pd.DataFrame) -> list[tuple[str, float, float]]:
    checks = []
    _title(f"Architecture and GPU: {', '.join(THREE)} on {' and '.join(BOTH)}")
    for value in ("energy_J", "energy_per_sample_J"):
        found = interaction(three, value)
        print(found)
        print()
        # All pairs have 15 runs, so the sums of squares follow from the means.
        log = np.log(three[value])
        total = float(((log - log.mean()) ** 2).sum())
        by_pair = log.groupby([three["model"], three["gpu"]]).transform("mean")
        by_model = log.groupby(three["model"]).transform("mean")
        by_gpu = log.groupby(three["gpu"]).transform("mean")
        parts = {
            "model": by_model - log.mean(),
            "gpu": by_gpu - log.mean(),
            "model:gpu": by_pair - by_model - by_gpu + log.mean(),
            "residual": log - by_pair,
        }
        for name, part in parts.items():
            share = 100 * float((part**2).sum()) / total
            checks.append(
                (f"share of {name} in {value} (%)", 100 * found.effects["share"][name], share)
            )
    # The reason why repetitions of a pair differ: early stopping ends them after 47 to 150 epochs.
    pair = [three["model"], three["gpu"]]
    energy, images = np.log(three["energy_J"]), np.log(three["samples"])
    own = energy - energy.groupby(pair).transform("mean")
    seen = images - images.groupby(pair).transform("mean")
    print(
        f"Between the repetitions of a pair, the number of images that they were trained on "
        f"explains {100 * np.corrcoef(own, seen)[0, 1] ** 2:.1f} % of the variance"
    )
    return checks


def _groups(runs: pd.DataFrame) -> None:
    _title("Do architectures differ on the RTX 3090?")
    on_3090 = runs[runs["gpu"] == "RTX 3090"]
    print(compare_groups(on_3090))
    print()
    print(compare_groups(on_3090, "f1"))
    _title("Do GPUs differ for MobileNetV2?")
    print(compare_groups(runs[runs["model"] == "mobilenet_v2"], by="gpu"))


def _match(runs: pd.DataFrame) -> None:
    _title("GPU and complexity")
    found = match_gpu(runs)
    print(found)
    columns = [*CHOICE, "flops_per_sample", "energy_per_sample_J", "utilization", "power_share"]
    print()
    print(found.points.sort_values(["gpu", "flops_per_sample"])[columns].to_string(index=False))
    print()
    print(found.relations.to_string(index=False))


def _plot(runs: pd.DataFrame, three: pd.DataFrame, folder: Path) -> None:
    from energyest import plots

    folder.mkdir(parents=True, exist_ok=True)
    pictures = {
        "front": plots.plot_front(runs, quality="f1"),
        "savings": plots.plot_savings(savings(runs, quality="f1")),
        "groups": plots.plot_groups(runs[runs["gpu"] == "RTX 3090"]),
        "interaction": plots.plot_interaction(interaction(three)),
        "match": plots.plot_match(match_gpu(runs)),
    }
    for name, figure in pictures.items():
        figure.savefig(folder / f"delrey_{name}.png", dpi=150)


if __name__ == "__main__":
    warnings.simplefilter("error")
    sys.exit(main())
