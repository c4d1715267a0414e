"""`duplicated_runs`: trainings that were done more than once, and what the repetition cost."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from energyest.errors import RunsError
from energyest.frames import ResultTable
from energyest.tradeoff.table import By, as_names, check_columns, check_runs

# What makes two trainings the same, besides their hyperparameters.
_SETTINGS = ("model", "gpu_name", "gpus", "batch_size", "precision", "flops_per_sample")


def duplicated_runs(
    runs: pd.DataFrame, *, by: By | None = None, hparams: Sequence[str] = ()
) -> pd.DataFrame:
    """Trainings that were done more than once with the same settings.

    Whether that was a waste is for their owners to say: a repetition with the same seed repeats
    the result, and one without a recorded seed may have been meant.

    Args:
        runs: a table from `collect_runs`.
        by: the columns in which duplicates agree. By default, those of the settings that the table
            has, `model, gpu_name, gpus, batch_size, precision, flops_per_sample`, and `hparams`.
        hparams: names of hyperparameters in which duplicates agree, too, such as `lr` and `seed`.

    Returns:
        One row per group of two runs or more, the most expensive repetition first: the columns in
        which they agree, `runs`, `first_run` and `other_runs` (names, with spaces between them),
        `users`, `energy_J` (of all of them; NaN if one is unknown) and `repeated_J` (of all but
        the first one).

    Raises:
        RunsError: a column is missing.

    Examples:
        `runs` is a table from `collect_runs`: six networks, on two GPUs, six times each.

        >>> from energyest.tradeoff import duplicated_runs
        >>> len(duplicated_runs(runs, hparams=['seed']))
        0
        >>> duplicated_runs(runs)['runs'].tolist()
        [6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6]
    """
    check_runs(runs, ["run", "started", "energy_J"], repeated=False)
    names = [name for name in _SETTINGS if name in runs] if by is None else as_names(by)
    names = [*dict.fromkeys([*names, *hparams])]
    check_columns(runs, names)
    if not names:
        raise RunsError("no column says what a run is: name the columns in by=")
    ordered = runs.sort_values(["started", "run"], kind="stable")
    rows = []
    for key, same in ordered.groupby(names, dropna=False, sort=False, observed=True):
        if len(same) < 2:
            continue
        energies_J = same["energy_J"]
        users = same["user"].dropna().unique() if "user" in same else ()
        rows.append(
            dict(zip(names, key if isinstance(key, tuple) else (key,), strict=True))
            | {
                "runs": len(same),
                "first_run": same["run"].iloc[0],
                "other_runs": " ".join(map(str, same["run"].iloc[1:])),
                "users": " ".join(sorted(map(str, users))),
                "energy_J": energies_J.sum(skipna=False),
                "repeated_J": energies_J.iloc[1:].sum(skipna=False),
            }
        )
    columns = [*names, "runs", "first_run", "other_runs", "users", "energy_J", "repeated_J"]
    table = pd.DataFrame(rows, columns=[*dict.fromkeys(columns)])
    found: pd.DataFrame = ResultTable(
        table.sort_values("repeated_J", ascending=False, kind="stable", ignore_index=True)
    )
    return found
