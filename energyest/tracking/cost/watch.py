"""`BudgetWatch`: looks at the budget of a training that is under way, and says what comes of it."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping

from energyest.tracking.cost.budget import Budget, Limit
from energyest.tracking.cost.verdict import Level, Standing, judge
from energyest.tracking.guard import never_raises

log = logging.getLogger("energyest")

#: Between epochs, the budget is looked at about so often.
LOOK_S = 1.0

# What one look comes to: why the training is to end, empty if it is not; and after how many batches
# the next look is due. Of plain values, as processes tell it each other.
Look = tuple[str, int]
# Gives what rank 0 has come to on all ranks; each has to call it.
Agree = Callable[[Look], Look]


class BudgetWatch:
    """Watches a budget.

    With several processes, rank 0 alone decides. If the training is to be stopped, the others hear
    of it by `agree`, at the same batch or epoch: so each look is then due at the same batch on all
    of them, and not by their clocks.

    Args:
        budget: what the training may cost.
        standing: tells where the training stands; asked at rank 0 alone.
        tell: writes what became of the budget into the trace's meta.
        agree: brings rank 0's look to all ranks; None for a process that is alone. Only called for
            a budget that stops a training.
        is_first_rank: whether this process decides.
    """

    def __init__(
        self,
        budget: Budget,
        standing: Callable[[], Standing],
        tell: Callable[[Mapping[str, object]], None],
        *,
        agree: Agree | None = None,
        is_first_rank: bool = True,
    ) -> None:
        self._budget = budget
        self._standing = standing
        self._tell = tell
        self._agree = agree if budget.stops else None
        self._is_first_rank = is_first_rank
        self._told: dict[Limit, Level] = {}
        self._exceeded = ""
        self._stopped = ""
        self._findings: list[dict[str, object]] = []
        # Batches since the last look, and after how many the next is due.
        self._batches, self._due = 0, 1
        self._looked_s = -math.inf
        if is_first_rank and budget.limits:
            tell(budget.as_meta())

    @property
    def exceeded(self) -> str:
        """Why the budget is exceeded, or will be; empty if it is not."""
        return self._exceeded

    @property
    def asks_others(self) -> bool:
        """Whether a look is one of all ranks together."""
        return self._agree is not None

    @property
    def must_stop(self) -> bool:
        """Whether the training is to end; never for a budget that is only warned of."""
        return bool(self._stopped)

    def after_batch(self) -> bool:
        """A batch has ended: look, if that is due. Returns `must_stop`."""
        self._batches += 1
        if self._is_due:
            self._look()
        return self.must_stop

    def after_epoch(self) -> bool:
        """An epoch has ended: look. Returns `must_stop`."""
        self._look()
        return self.must_stop

    # ------------------------------------------------------------------ inside

    @property
    def _is_due(self) -> bool:
        if self._agree is None:
            return time.monotonic() - self._looked_s >= LOOK_S
        return self._batches >= self._due

    def _look(self) -> None:
        if not self._budget.limits or self._stopped:
            return
        look = "", self._next_due()
        if self._is_first_rank:
            look = self._decide() or "", look[1]
        if self._agree is not None:  # whatever has failed here: the others wait for it
            look = self._agree(look)
        self._stopped, self._due = look
        self._batches = 0

    def _next_due(self) -> int:
        """Batches to the next look, by the time that those since the last have taken."""
        now_s = time.monotonic()
        elapsed_s, self._looked_s = now_s - self._looked_s, now_s
        wanted = self._batches * LOOK_S / elapsed_s if elapsed_s > 0 else self._due
        # A few fast batches do not put off the next look for long.
        return max(1, min(int(wanted), 2 * self._due))

    @never_raises
    def _decide(self) -> str:
        """What is to be said is said; returns why the training is to end."""
        standing = self._standing()
        verdicts = {limit: judge(limit, standing) for limit in self._budget.limits}
        exceeded = [verdict.reason for verdict in verdicts.values() if verdict.exceeds]
        self._exceeded = exceeded[0] if exceeded else ""
        stopped = self._exceeded if self._budget.stops and not standing.is_over else ""
        for limit, verdict in verdicts.items():
            if verdict.level > self._told.get(limit, Level.WITHIN):  # each level is news once
                self._told[limit] = verdict.level
                end = "; the training ends here" if stopped and verdict.exceeds else ""
                log.warning("energyest: %s%s", verdict.reason, end)
                level = verdict.level.name.lower()
                finding = {"level": level, "reason": verdict.reason, "rows": standing.rows}
                self._findings.append(finding)
                news = {"findings": self._findings, "stopped": stopped or None}
                self._tell({**self._budget.as_meta(), **news})
        return stopped
