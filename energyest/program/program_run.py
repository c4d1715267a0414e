"""A program's run: from the epochs that it tells of to rows of a trace."""

from __future__ import annotations

import logging
import math

from energyest.display import format_duration, format_energy
from energyest.program.epoch_patterns import SeenEpoch
from energyest.records.meta import read_number, read_text
from energyest.tracking.plan import Length
from energyest.tracking.session import Session

log = logging.getLogger("energyest")

# Output of several processes is mixed: a line of the epoch before may come late.
_LATE = 1


class ProgramRun:
    """Rows of a program that runs; until an epoch is seen there is one, from the start on.

    Args:
        session: records them.
        epochs: how many are planned; None to go by what the program tells.
    """

    def __init__(self, session: Session, epochs: int | None) -> None:
        self._session = session
        self._epochs = epochs
        # The last epoch that was seen, and whether some were not.
        self._last: SeenEpoch | None = None
        self._has_gaps = False

    def start(self) -> None:
        """The program is about to begin."""
        self._session.start()
        self._session.start_row()

    def see(self, seen: SeenEpoch) -> None:
        """A line of the program has named an epoch."""
        session, last = self._session, self._last
        # A smaller number is a line that comes late, or another training that begins.
        if last is not None and last.number - _LATE <= seen.number <= last.number:
            if seen.number == last.number:
                self._plan(seen)  # how many there will be may be told later than the epoch
            return
        self._has_gaps |= last is not None and seen.number > last.number + 1
        if seen.edge == "begins":
            if last is not None:
                self._end_row()
            # What came before the first epoch is no part of it.
            session.start_row(seen.number, continues=last is not None)
        else:
            if last is not None:
                session.start_row(seen.number, continues=True)
            self._end_row()
        self._last = seen
        self._plan(seen)

    def finish(self, status: str) -> None:
        """The program has ended.

        Args:
            status: `finished`, or what ended it.
        """
        session, last = self._session, self._last
        if last is None:
            session.note("epochs: none was recognised in the output: the program is one row")
        if self._has_gaps:
            session.note("epochs: the program did not tell of each: a row may hold several")
        if status == "finished":
            if session.in_row:
                self._end_row()
            session.length = session.length.ended_after(session.rows)
        elif last is not None and last.edge == "ends":
            session.start_row(last.number + 1, continues=True)
        session.stop(status)

    @property
    def summary(self) -> str:
        """What the program has cost, after its end."""
        session = self._session
        trace = session.trace
        total_J = trace.total_J
        energy = format_energy(total_J) if math.isfinite(total_J) else "an energy not known (NaN)"
        duration = format_duration(read_number(trace.meta, "duration_s") or math.nan)
        told = "no epoch recognised in the output"
        if self._last is not None:
            told = f"{len(trace)} epoch{'s' * (len(trace) != 1)}"
        text = f"{energy} in {duration}, {told}"
        if session.folder is not None:
            text += f"; trace in {session.folder}"
        # Of a program that has finished, the total is no projection.
        if read_text(trace.meta, "status") != "finished" and (projection := session.projection):
            text += f"\nenergyest: to its planned end it would have been {projection}"
        return text

    def _end_row(self) -> None:
        row = self._session.end_row()
        if self._last is not None and log.isEnabledFor(logging.INFO):
            energy = format_energy(row.get("energy_J", math.nan))
            duration = format_duration(row.get("duration_s", math.nan))
            log.info(
                "energyest: epoch %d: %s in %s; projection: %s",
                row.get("epoch", math.nan),
                energy,
                duration,
                self._session.projection_if_cheap() or "none yet",
            )

    def _plan(self, seen: SeenEpoch) -> None:
        if self._has_gaps:
            self._session.length = Length()  # rows and epochs are not the same number
            return
        epochs = self._epochs or seen.epochs
        if epochs is not None:
            to_come = max(0, epochs - seen.number - (seen.edge == "ends"))
            self._session.length = Length(max(1, self._session.rows + to_come))
