"""Times of a log (date-times, Unix time or seconds) and the absolute time they stand for."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np

from energyest.arrays import FloatArray
from energyest.checks import check_positive, short
from energyest.errors import TraceError

if TYPE_CHECKING:
    import pandas as pd

# A date-time: the year must come first, so that days and months cannot be confused.
DATE_TIME = re.compile(
    r"\d{4}[-/]\d{1,2}[-/]\d{1,2}[ T]\d{1,2}:\d{2}(:\d{2}([.,]\d+)?)?\s*(Z|UTC|[+-]\d{2}:?\d{2})?"
)
_ZONE = re.compile(r"(Z|UTC|[+-]\d{2}:?\d{2})$")
# Unix time is 1.8e9 s today; no log lasts 1e8 s, which is three years.
_UNIX_S, _UNIX_MS = 1e8, 1e11
# If times go back by at least this much, the clock was put back by an hour.
_CLOCK_CHANGE_S = 1800.0


class Clock(NamedTuple):
    """What second 0 of a log stands for.

    Attributes:
        zero_s: second 0 in Unix time if the log has Unix time or its time zone is known; as if the
            times were UTC for a log in local time; 0 for a log with only relative seconds.
        kind: "unix", "local" or "seconds".
        timezone: the log's time zone, if known.
    """

    zero_s: float = 0.0
    kind: str = "seconds"
    timezone: str | None = None

    @property
    def start_time(self) -> str | None:
        """Second 0 in ISO 8601, UTC; None if unknown."""
        if self.kind != "unix":
            return None
        return datetime.fromtimestamp(self.zero_s, timezone.utc).isoformat()

    def of_unix(self, unix_s: FloatArray) -> FloatArray:
        """Convert Unix time to seconds on this clock.

        Raises:
            TraceError: the log has local times of an unknown time zone, or no dates.
        """
        if self.kind == "unix":
            return unix_s - self.zero_s
        if self.kind == "local":
            raise TraceError(
                "the log has local times without a time zone, but these times are absolute: give "
                "the log's time zone, as in timezone='Europe/Berlin'"
            )
        raise TraceError("the log has seconds without a date: give seconds, not dates")


def clock_of_unix(unix_s: FloatArray) -> tuple[FloatArray, Clock]:
    """Convert Unix time to seconds since the earliest; return them and their clock."""
    zero_s = float(np.nanmin(unix_s))
    return unix_s - zero_s, Clock(zero_s, "unix")


def clock_of_texts(
    texts: Sequence[str], refusal: Callable[[int, str], TraceError], timezone: str | None
) -> tuple[FloatArray, Clock]:
    """Convert a log's date-times to seconds since the earliest; return them and their clock.

    Args:
        texts: shape (n,), with the year first, such as `2026/03/01 02:30:00.123`.
        refusal: makes the error for the n-th text.
        timezone: the time zone of local times; None if unknown.

    Raises:
        TraceError: a text is not such a date-time, or is a local time that the clock skipped or
            passed twice.
    """
    import pandas as pd  # noqa: PLC0415  (pandas takes its time to load)

    for number, text in enumerate(texts):
        if not DATE_TIME.fullmatch(text):
            raise refusal(number, f"{short(text)} is not a date-time such as 2026/03/01 02:30:00")
    zones = [bool(_ZONE.search(text)) for text in texts]
    if any(zones) != all(zones):
        raise refusal(zones.index(not zones[0]), "some times name a time zone, but others do not")
    plain = pd.Series([text.replace(",", ".").replace(" UTC", "Z") for text in texts])
    times = pd.to_datetime(plain, format="ISO8601", errors="coerce", utc=all(zones) and zones != [])
    wrong = np.flatnonzero(times.isna())
    if len(wrong):
        raise refusal(int(wrong[0]), f"{short(texts[wrong[0]])} is not a date-time")
    if zones and zones[0]:
        return _of_series(times, "unix", "UTC")
    if timezone is None:
        return _of_series(times.dt.tz_localize("UTC"), "local", None)
    zone = zone_of(timezone)
    try:
        # When the clock is put back, an hour occurs twice: its first pass is summer time.
        local_s = _seconds(times - times.min())
        back = np.flatnonzero(np.diff(local_s) < -_CLOCK_CHANGE_S)
        is_summer = np.arange(len(texts)) <= (back[0] if len(back) else len(texts))
        aware = times.dt.tz_localize(zone, ambiguous=is_summer)
    except Exception as error:  # pandas and time zone data raise their own
        raise refusal(0, f"the times do not exist in {timezone}: {error}") from error
    return _of_series(aware.dt.tz_convert("UTC"), "unix", timezone)


def clock_of_rounds(devices: Sequence[str], every_s: float) -> tuple[FloatArray, Clock]:
    """Times for readings without any: the n-th reading of a device comes after n intervals."""
    seen: dict[str, int] = {}
    rounds = []
    for name in devices:
        rounds.append(seen.get(name, 0))
        seen[name] = rounds[-1] + 1
    return check_positive(every_s, "interval_s", TraceError) * np.array(rounds, np.float64), Clock()


def zone_of(name: str) -> ZoneInfo:
    """Look up a time zone by name.

    Raises:
        TraceError: there is no such time zone.
    """
    try:
        return ZoneInfo(name)
    except Exception as error:  # KeyError, ValueError or OSError, depending on what is wrong
        raise TraceError(
            f"timezone={short(name)} is not a time zone; use a name such as 'Europe/Berlin'"
        ) from error


def seconds_on(values: Sequence[Any], clock: Clock, name: str) -> FloatArray:
    """Convert a user's numbers or date-times to seconds on the clock of a log.

    Numbers are seconds on the log's clock, which starts at its first reading. If the log has dates,
    numbers too large for that are taken as Unix time.

    Raises:
        TraceError: the values are neither, or belong to another clock.
    """
    import pandas as pd  # noqa: PLC0415

    items = list(values)
    if all(isinstance(item, str) for item in items) and items:
        if all(DATE_TIME.fullmatch(item.strip()) for item in items):
            return _of_dates([item.strip() for item in items], clock, name)
        try:
            items = [float(item) for item in items]
        except ValueError as error:
            raise TraceError(f"{name} must hold seconds or date-times: {error}") from error
    is_date = [isinstance(item, (datetime, np.datetime64)) for item in items]
    if any(is_date):
        if not all(is_date):
            raise TraceError(f"{name} must hold seconds or date-times, not both")
        texts = [pd.Timestamp(item).isoformat(sep=" ") for item in items]
        return _of_dates(texts, clock, name)
    try:
        numbers = np.asarray(items, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TraceError(f"{name} must hold seconds or date-times: {error}") from error
    if numbers.ndim != 1:
        raise TraceError(f"{name} must have one dimension, not shape {numbers.shape}")
    if clock.kind == "seconds" or not len(numbers) or not (numbers > _UNIX_S).all():
        return numbers
    if (numbers > _UNIX_MS).all():
        raise TraceError(f"{name} must hold seconds: these are milliseconds, divide by 1000")
    return clock.of_unix(numbers)


def _of_dates(texts: list[str], clock: Clock, name: str) -> FloatArray:
    """Convert date-times to seconds on the clock of a log."""

    def refusal(number: int, text: str) -> TraceError:
        return TraceError(f"{name}[{number}]: {text}")

    seconds, own = clock_of_texts(texts, refusal, clock.timezone)
    if own.kind == clock.kind:
        return seconds + (own.zero_s - clock.zero_s)
    if own.kind == "unix":
        return clock.of_unix(seconds + own.zero_s)
    if clock.kind == "unix":
        raise TraceError(
            f"{name} holds date-times without a time zone, but the log has absolute times: add the "
            "time zone, as in 2026-03-01 02:30:00+01:00, or give it in timezone="
        )
    return clock.of_unix(seconds)


def _of_series(times: pd.Series, kind: str, zone: str | None) -> tuple[FloatArray, Clock]:
    """Convert times in UTC, or taken for it, to seconds since the earliest, with their clock."""
    if not len(times):
        return np.empty(0), Clock(0.0, kind, zone)
    first = times.min()
    return _seconds(times - first), Clock(float(first.timestamp()), kind, zone)


def _seconds(spans: pd.Series) -> FloatArray:
    import pandas as pd  # noqa: PLC0415

    return np.asarray(spans / pd.Timedelta("1s"), dtype=np.float64)
