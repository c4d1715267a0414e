"""The pictures of the documentation, from the runs in `examples/data`: one function each.

The build of the site calls them all (`site_hooks.py`). The picture of the README is in the
repository: `python docs/figures.py` draws it anew.
"""

from __future__ import annotations

import io
import tarfile
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl

from energyest import load_trace, plots
from energyest.tradeoff import collect_runs
from energyest.tradeoff import savings as savings_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROOT = Path(__file__).parents[1]
_RUN = "vgg11_bn-h200-0"
README_PICTURE = _ROOT / "docs/readme.svg"


def trace() -> Figure:
    """A training of twelve epochs, projected from six."""
    return plots.plot_trace(load_trace(_runs() / _RUN / "energy"), observed=6)


def front() -> Figure:
    """Six networks on two GPUs: energy, accuracy, and the front."""
    return plots.plot_front(_table())


def savings() -> Figure:
    """What each choice saves against another."""
    return plots.plot_savings(savings_of(_table()))


def svg(figure: Figure) -> bytes:
    """A figure as SVG, the same at every build."""
    file = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "energyest"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


@cache
def _runs() -> Path:
    """The runs, unpacked for as long as the process lives."""
    folder = tempfile.TemporaryDirectory(prefix="energyest-docs-")
    _kept.append(folder)
    with tarfile.open(_ROOT / "examples/data/choices.tar.gz") as archive:
        archive.extractall(folder.name, filter="data")
    return Path(folder.name) / "choices"


@cache
def _table() -> Any:
    return collect_runs(_runs(), model="architecture")


_kept: list[tempfile.TemporaryDirectory[str]] = []

if __name__ == "__main__":
    README_PICTURE.write_bytes(svg(trace()))
