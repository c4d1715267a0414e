"""Times of a log: date-times, Unix time or seconds, and which instant of the world they are."""

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

# Text that names an instant: the year comes first, so that nobody mixes up days and months.
DATE_TIME = re.compile(
    r"\d{4}[-/]\d{1,2}[-/]\d{1,2}[ T]\d{1,2}:\d{2}(:\d{2}([.,]\d+)?)?\s*(Z|UTC|[+-]\d{2}:?\d{2})?"
)
_ZONE = re.compile(r"(Z|UTC|[+-]\d{2}:?\d{2})$")
# Unix time of today is 1.8e9 s; a log that lasts as long as 1e8 s, three years, is none.
_UNIX_S, _UNIX_MS = 1e8, 1e11
# The clock was put back by an hour if it goes back by at least so much.
_CLOCK_CHANGE_S = 1800.0


class Clock(NamedTuple):
    """What the zero of a log's seconds is.

    Attributes:
        zero_s: of a log in Unix time, or whose time zone is known, its zero in Unix time; of a log
            in local time, its zero as if that were UTC; 0 of a log that has seconds of its own.
        kind: "unix", "local" or "seconds".
        timezone: the log's time zone, if it is known.
    """

    zero_s: float = 0.0
    kind: str = "seconds"
    timezone: str | None = None

    @property
    def start_time(self) -> str | None:
        """The zero in ISO 8601, UTC; None if it is not known."""
        if self.kind != "unix":
            return None
        return datetime.fromtimestamp(self.zero_s, timezone.utc).isoformat()

    def of_unix(self, unix_s: FloatArray) -> FloatArray:
        """Unix time on this clock.

        Raises:
            TraceError: the log has local time of a zone that is not known, or no date.
        """
        if self.kind == "unix":
            return unix_s - self.zero_s
        if self.kind == "local":
            raise TraceError(
                "the log has local times without a time zone, and these are instants of the world:"
                " timezone= names the log's zone, as in timezone='Europe/Berlin'"
            )
        raise TraceError("the log has seconds of its own without a date: give seconds, not dates")


def clock_of_unix(unix_s: FloatArray) -> tuple[FloatArray, Clock]:
    """Unix time as seconds since the first, and the clock of these."""
    zero_s = float(np.nanmin(unix_s))
    return unix_s - zero_s, Clock(zero_s, "unix")


def clock_of_texts(
    texts: Sequence[str], refusal: Callable[[int, str], TraceError], timezone: str | None
) -> tuple[FloatArray, Clock]:
    """Date-times of a log as seconds since the earliest, and the clock of these.

    Args:
        texts: shape (n,), with the year first, such as `2026/03/01 02:30:00.123`.
        refusal: makes the error of the n-th text.
        timezone: where they are local times; None if that is not known.

    Raises:
        TraceError: one is no such date-time; a local time that the clock skipped or went through
            twice.
    """
    import pandas as pd  # noqa: PLC0415  (pandas takes its time to load)

    for number, text in enumerate(texts):
        if not DATE_TIME.fullmatch(text):
            raise refusal(number, f"{short(text)} is no date-time such as 2026/03/01 02:30:00")
    zones = [bool(_ZONE.search(text)) for text in texts]
    if any(zones) != all(zones):
        raise refusal(zones.index(not zones[0]), "some times name a time zone, and others do not")
    plain = pd.Series([text.replace(",", ".").replace(" UTC", "Z") for text in texts])
    times = pd.to_datetime(plain, format="ISO8601", errors="coerce", utc=all(zones) and zones != [])
    wrong = np.flatnonzero(times.isna())
    if len(wrong):
        raise refusal(int(wrong[0]), f"{short(texts[wrong[0]])} is no date-time")
    if zones and zones[0]:
        return _of_series(times, "unix", "UTC")
    if timezone is None:
        return _of_series(times.dt.tz_localize("UTC"), "local", None)
    zone = zone_of(timezone)
    try:
        # Where the clock is put back, an hour comes twice: what comes before is summer time.
        local_s = _seconds(times - times.min())
        back = np.flatnonzero(np.diff(local_s) < -_CLOCK_CHANGE_S)
        is_summer = np.arange(len(texts)) <= (back[0] if len(back) else len(texts))
        aware = times.dt.tz_localize(zone, ambiguous=is_summer)
    except Exception as error:  # pandas and time zone data raise their own
        raise refusal(0, f"the times are none of {timezone}: {error}") from error
    return _of_series(aware.dt.tz_convert("UTC"), "unix", timezone)


def clock_of_rounds(devices: Sequence[str], every_s: float) -> tuple[FloatArray, Clock]:
    """Times of readings that have none: a device's n-th came after n intervals."""
    seen: dict[str, int] = {}
    rounds = []
    for name in devices:
        rounds.append(seen.get(name, 0))
        seen[name] = rounds[-1] + 1
    return check_positive(every_s, "interval_s", TraceError) * np.array(rounds, np.float64), Clock()


def zone_of(name: str) -> ZoneInfo:
    """A time zone by its name.

    Raises:
        TraceError: there is none of that name.
    """
    try:
        return ZoneInfo(name)
    except Exception as error:  # KeyError, ValueError, OSError, by what is wrong with it
        raise TraceError(
            f"timezone={short(name)} is no time zone; one is named as in 'Europe/Berlin'"
        ) from error


def seconds_on(values: Sequence[Any], clock: Clock, name: str) -> FloatArray:
    """Numbers or date-times that somebody gave, as seconds on the clock of a log.

    Numbers are seconds on the log's clock, which begins with its first reading; those of a log with
    dates that are too large for it are Unix time.

    Raises:
        TraceError: they are neither, or of another clock.
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
    """Date-times on the clock of a log."""

    def refusal(number: int, text: str) -> TraceError:
        return TraceError(f"{name}[{number}]: {text}")

    seconds, own = clock_of_texts(texts, refusal, clock.timezone)
    if own.kind == clock.kind:
        return seconds + (own.zero_s - clock.zero_s)
    if own.kind == "unix":
        return clock.of_unix(seconds + own.zero_s)
    if clock.kind == "unix":
        raise TraceError(
            f"{name} holds date-times without a time zone, and the log has instants of the world: "
            "add the zone, as in 2026-03-01 02:30:00+01:00, or name it in timezone="
        )
    return clock.of_unix(seconds)


def _of_series(times: pd.Series, kind: str, zone: str | None) -> tuple[FloatArray, Clock]:
    """Times that are UTC, or taken for it, as seconds since the earliest, and their clock."""
    if not len(times):
        return np.empty(0), Clock(0.0, kind, zone)
    first = times.min()
    return _seconds(times - first), Clock(float(first.timestamp()), kind, zone)


def _seconds(spans: pd.Series) -> FloatArray:
    import pandas as pd  # noqa: PLC0415

    return np.asarray(spans / pd.Timedelta("1s"), dtype=np.float64)
