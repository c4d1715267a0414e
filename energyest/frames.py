"""`ResultTable`: a DataFrame of results that notebooks show with units, and no text cut off."""

from __future__ import annotations

import pandas as pd

from energyest.markup import joined, of_frame, paragraph

# As many rows as pandas shows.
_MOST_ROWS = 60


class ResultTable(pd.DataFrame):
    """A DataFrame in all but how notebooks show it; what is made from it is a plain DataFrame."""

    def _repr_html_(self) -> str:
        left = len(self) - _MOST_ROWS
        more = paragraph(f"{left} more rows") if left > 0 else ""
        return str(joined([of_frame(self.head(_MOST_ROWS)), more]))
