"""Numbers pinned before the code was moved, made by `tests.support.golden`."""

from __future__ import annotations

import gzip
import json

import pytest

from tests.support import golden


@pytest.mark.parametrize("part", golden.PARTS)
def test_numbers_are_as_they_were(part: str) -> None:
    if part == "tradeoff" and not golden.CHOICES.exists():
        pytest.skip("the tests run without the examples")
    stored = json.loads(gzip.decompress((golden.DATA / "golden.json.gz").read_bytes()))[part]
    found = golden.PARTS[part]()
    assert found.keys() == stored.keys()
    wrong = {
        name: (found[name], value)
        for name, value in stored.items()
        if found[name]
        != (value if isinstance(value, str | None) else pytest.approx(value, _tolerance(name)))
    }
    assert not wrong, f"{len(wrong)} of {len(stored)}: {dict(list(wrong.items())[:5])}"


def _tolerance(name: str) -> float:
    """SciPy 1.18 computes the test of Shapiro and Wilk in another order."""
    return 1e-7 if name.endswith("shapiro_p") else 1e-9
