"""`say_summary`: logs the cost of a run when it has ended."""

from __future__ import annotations

import logging

from energyest.settings import Settings
from energyest.summary import summary_of
from energyest.tracking.guard import never_raises
from energyest.tracking.session import Session

log = logging.getLogger("energyest")


@never_raises
def say_summary(session: Session, chosen: Settings) -> None:
    """Log a summary of a run that has ended, unless the settings are quiet.

    The level is INFO. If the program has not configured logging, Python shows only warnings and
    above; the summary then goes to stderr, as warnings do.

    Args:
        session: session of the run.
        chosen: settings: carbon intensity, PUE and whether to be quiet.
    """
    if chosen.quiet:
        return
    text = summary_of(
        session.trace,
        intensity=chosen.carbon_intensity,
        pue=chosen.pue,
        folder=session.folder,
    )
    if log.hasHandlers() or log.level != logging.NOTSET:
        log.info("energyest: %s", text)
    else:
        arguments = (log.name, logging.INFO, __file__, 0, "energyest: %s", (text,), None)
        logging.StreamHandler().emit(logging.LogRecord(*arguments))
