"""`BudgetWatch`: checks the budget of a running training and reports the result."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from energyest.distributed.world import is_one_of_several
from energyest.tracking.cost.budget import Budget, Limit
from energyest.tracking.cost.verdict import Level, Standing, judge
from energyest.tracking.guard import never_raises

log = logging.getLogger("energyest")

#: Approximate time between two checks of the budget within an epoch, in seconds.
LOOK_S = 1.0

# The result of a check: why the training must end (empty if it need not), and the number of batches
# until the next check. Plain values, because processes exchange them.
Look = tuple[str, int]
# Returns the result of rank 0 on all ranks; every rank has to call it.
Agree = Callable[[Look], Look]


def warn_if_several(budget: Budget) -> Budget:
    """The budget of a loop that has no way to agree with other processes, if there are any.

    Each would stop at a moment of its own, and the others would wait for it: it only warns.
    """
    if not budget.stops or not is_one_of_several():
        return budget
    log.warning(
        "energyest: with several processes, track() only warns of a budget: "
        'on_exceed="stop" would end each of them at a different epoch'
    )
    return replace(budget, stops=False)


class BudgetWatch:
    """Checks a budget while a training runs.

    With several processes, rank 0 alone decides. For a budget that stops the training, `agree`
    brings its decision to the others at the same batch or epoch. All ranks therefore schedule the
    next check by batch, not by their own clocks.

    Args:
        budget: what the training may cost.
        standing: returns the cost so far and the projection; called on rank 0 only.
        tell: writes the state of the budget into the trace's meta.
        agree: brings the result of rank 0 to all ranks; None for a single process. Called only for
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
        # Batches since the last check, and how many batches after it the next check is due.
        self._batches, self._due = 0, 1
        self._looked_s = -math.inf
        if is_first_rank and budget.limits:
            tell(budget.as_meta())

    @property
    def exceeded(self) -> str:
        """Why the budget is exceeded or will be; empty if it is not."""
        return self._exceeded

    @property
    def asks_others(self) -> bool:
        """Whether each check involves all ranks."""
        return self._agree is not None

    @property
    def must_stop(self) -> bool:
        """Whether the training must end; always False for a budget that only warns."""
        return bool(self._stopped)

    def after_batch(self) -> bool:
        """Check the budget after a batch, if a check is due. Returns `must_stop`."""
        self._batches += 1
        if self._is_due:
            self._look()
        return self.must_stop

    def after_epoch(self) -> bool:
        """Check the budget after an epoch. Returns `must_stop`."""
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
        if self._agree is not None:  # even if _decide failed: the other ranks wait for this call
            look = self._agree(look)
        self._stopped, self._due = look
        self._batches = 0

    def _next_due(self) -> int:
        """Batches until the next check, from the time that the batches since the last one took."""
        now_s = time.monotonic()
        elapsed_s, self._looked_s = now_s - self._looked_s, now_s
        wanted = self._batches * LOOK_S / elapsed_s if elapsed_s > 0 else self._due
        # A few fast batches must not delay the next check for long.
        return max(1, min(int(wanted), 2 * self._due))

    @never_raises
    def _decide(self) -> str:
        """Report each new state of a limit; return why the training must end, if it must."""
        standing = self._standing()
        verdicts = {limit: judge(limit, standing) for limit in self._budget.limits}
        exceeded = [verdict.reason for verdict in verdicts.values() if verdict.exceeds]
        self._exceeded = exceeded[0] if exceeded else ""
        stopped = self._exceeded if self._budget.stops and not standing.is_over else ""
        for limit, verdict in verdicts.items():
            if verdict.level > self._told.get(limit, Level.WITHIN):  # report each level once
                self._told[limit] = verdict.level
                end = "; the training ends here" if stopped and verdict.exceeds else ""
                log.warning("energyest: %s%s", verdict.reason, end)
                level = verdict.level.name.lower()
                finding = {"level": level, "reason": verdict.reason, "rows": standing.rows}
                self._findings.append(finding)
                news = {"findings": self._findings, "stopped": stopped or None}
                self._tell({**self._budget.as_meta(), **news})
        return stopped
