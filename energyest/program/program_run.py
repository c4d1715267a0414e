"""A program's run: turns the epochs seen in its output into rows of a trace."""

from __future__ import annotations

import logging
import math

from energyest.display import format_duration, format_energy
from energyest.program.epoch_patterns import SeenEpoch
from energyest.records.meta import read_number, read_text
from energyest.tracking.plan import Length
from energyest.tracking.session import Session

log = logging.getLogger("energyest")

# The output of several processes is mixed: a line of the previous epoch may come late.
_LATE = 1


class ProgramRun:
    """The rows of a running program; until an epoch is seen there is one row, from the start on.

    Args:
        session: records the rows.
        epochs: number of planned epochs; None to use the number in the program's output.
    """

    def __init__(self, session: Session, epochs: int | None) -> None:
        self._session = session
        self._epochs = epochs
        # The last epoch seen, and whether some were missed.
        self._last: SeenEpoch | None = None
        self._has_gaps = False

    def start(self) -> None:
        """Begin measuring, just before the program starts."""
        self._session.start()
        self._session.start_row()

    def see(self, seen: SeenEpoch) -> None:
        """Handle a line of the program that names an epoch."""
        session, last = self._session, self._last
        # A slightly smaller number is a late line; a much smaller one, a new training.
        if last is not None and last.number - _LATE <= seen.number <= last.number:
            if seen.number == last.number:
                self._plan(seen)  # how many there will be may be told later than the epoch
            return
        self._has_gaps |= last is not None and seen.number > last.number + 1
        if seen.edge == "begins":
            if last is not None:
                self._end_row()
            # The time before the first epoch is not part of it.
            session.start_row(seen.number, continues=last is not None)
        else:
            if last is not None:
                session.start_row(seen.number, continues=True)
            self._end_row()
        self._last = seen
        self._plan(seen)

    def finish(self, status: str) -> None:
        """End the run after the program has ended.

        Args:
            status: `finished`, or what ended it.
        """
        session, last = self._session, self._last
        if last is None:
            session.note("epochs: none was recognised in the output: the program is one row")
        if self._has_gaps:
            session.note("epochs: the output did not show each of them: a row may hold several")
        if status == "finished":
            if session.in_row:
                self._end_row()
            session.length = session.length.ended_after(session.rows)
        elif last is not None and last.edge == "ends":
            session.start_row(last.number + 1, continues=True)
        session.stop(status)

    @property
    def summary(self) -> str:
        """The cost of the program, after its end."""
        session = self._session
        trace = session.trace
        total_J = trace.total_J
        energy = format_energy(total_J) if math.isfinite(total_J) else "an unknown energy (NaN)"
        duration = format_duration(read_number(trace.meta, "duration_s") or math.nan)
        told = "no epoch recognised in the output"
        if self._last is not None:
            told = f"{len(trace)} epoch{'s' * (len(trace) != 1)}"
        text = f"{energy} in {duration}, {told}"
        if session.folder is not None:
            text += f"; trace in {session.folder}"
        # If the program has finished, its total is not a projection.
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
