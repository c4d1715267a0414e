"""One test for many items alike, where a test for each would cost more than what it tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def for_each(
    items: Iterable[T], name: Callable[[T], str] = str
) -> Callable[[Callable[[T], None]], Callable[[], None]]:
    """Decorate a check of one item: the test checks all of them, and names those that fail.

    Args:
        items: at least one.
        name: of an item, in the report.
    """

    def decorate(check: Callable[[T], None]) -> Callable[[], None]:
        def test() -> None:
            failures, count = [], 0
            for item in items:
                count += 1
                try:
                    check(item)
                except AssertionError as error:
                    failures.append(f"{name(item)}: {error}")
            assert count
            assert not failures, "\n".join(failures)

        test.__name__, test.__doc__ = check.__name__, check.__doc__
        return test

    return decorate
