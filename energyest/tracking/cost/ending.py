"""`say_summary`: what a run has cost, in the log, when it has ended."""

from __future__ import annotations

import logging

from energyest.settings import Settings
from energyest.summary import summary_of
from energyest.tracking.guard import never_raises
from energyest.tracking.session import Session

log = logging.getLogger("energyest")


@never_raises
def say_summary(session: Session, chosen: Settings) -> None:
    """Log a summary of a run that has ended, unless the settings are to be quiet.

    It is of level INFO. Where a program has not set up logging, Python shows warnings alone: there
    the summary goes to stderr, as warnings do.

    Args:
        session: of the run.
        chosen: carbon intensity, PUE, and whether to be quiet.
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
