"""The kernel's hardware monitors (hwmon): chips by name, and their channels by label.

docs.kernel.org/hwmon/sysfs-interface.html: a chip is a folder with a `name`; `energyN_input` is in
microjoules, `powerN_*` in microwatts, `inN_input` in millivolts and `currN_input` in milliamperes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

HWMON_ROOT = Path("/sys/class/hwmon")


def chips(root: Path, *names: str) -> list[Path]:
    """The folders of all chips with one of these names."""
    return [chip for chip in sorted(root.glob("hwmon*")) if read_text(chip / "name") in names]


def channels(chip: Path, kind: str) -> Iterator[tuple[str, str]]:
    """Label and name of each channel of a kind, such as ("Esocket0", "energy65").

    Args:
        chip: folder of the chip.
        kind: such as "energy"; the label is empty if the chip gives none.
    """
    for file in sorted(chip.glob(f"{kind}[0-9]*_input")):
        name = file.name.removesuffix("_input")
        yield read_text(chip / f"{name}_label"), name


def read_text(file: Path) -> str:
    """A line of text; empty if there is none."""
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
