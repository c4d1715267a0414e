"""Tables as the content of a file: CSV, Parquet or JSON."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

from energyest.cli.output import as_plain
from energyest.errors import ConfigurationError, MissingDependencyError

if TYPE_CHECKING:
    import pandas as pd

FORMATS = ("csv", "parquet", "json")


def format_of(file: str | None) -> str | None:
    """The format that the ending of a file's name stands for; None if it stands for none."""
    ending = (file or "").rpartition(".")[2].lower()
    return ending if ending in FORMATS else None


def encoded(rows: pd.DataFrame, form: str, kind: str, content: dict[str, object]) -> bytes:
    """A table as the content of a file.

    Args:
        rows: the table.
        form: one of `FORMATS`.
        kind: what the rows are; their name in JSON.
        content: what JSON holds besides.

    Raises:
        MissingDependencyError: Parquet needs pyarrow, which is not installed.
        ConfigurationError: the table cannot be written in this format.
    """
    from energyest.display import as_csv

    if form == "csv":
        return as_csv(rows).encode("utf-8")
    if form == "json":
        whole = {**content, kind: rows.to_dict(orient="records")}
        return (json.dumps(as_plain(whole), indent=2, allow_nan=False) + "\n").encode("ascii")
    file = io.BytesIO()
    try:
        _storable(rows).to_parquet(file, engine="pyarrow", index=False)
    except ImportError as error:
        raise MissingDependencyError(
            "Parquet needs pyarrow, which is not installed: pip install pyarrow"
        ) from error
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"the table cannot be written as Parquet: {error}") from error
    return file.getvalue()


def _storable(rows: pd.DataFrame) -> pd.DataFrame:
    """Columns of one type each: a hyperparameter may be a number in one run and text in another."""
    import pandas as pd

    mixed = [n for n in rows if pd.api.types.infer_dtype(rows[n], skipna=True).startswith("mixed")]
    texts = {n: rows[n].map(lambda v: v if pd.isna(v) else str(v)) for n in mixed}
    stored: pd.DataFrame = rows.assign(**{str(name): texts[name] for name in texts})
    return stored
