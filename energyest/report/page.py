"""`report_html` and `write_report`: the page of a training, in one file."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np

from energyest.carbon import Intensity
from energyest.errors import TraceError
from energyest.markup import Markup, element, escaped, facts, joined, listing, paragraph
from energyest.records.meta import read_object
from energyest.records.own_files import save_file
from energyest.records.run_labels import model_name
from energyest.records.trace import EnergyTrace
from energyest.report.outcome import comparison_of, outcome_of
from energyest.report.pictures import picture_of
from energyest.report.run_facts import carbon_facts, run_facts, text_of, total_facts
from energyest.report.tables import device_table, epoch_table, level_table, part_table
from energyest.settings import emission_basis
from energyest.summary import modelled_devices, notes_of, tells_sources
from energyest.versions import versions

# Of more epochs, blocks of neighbours have a row.
_MOST_EPOCHS = 40
_FILE = "report.html"
# What a report begins with: nothing else is overwritten.
_MARK = '<!doctype html>\n<html lang="en">\n<head>\n<meta name="generator" content="energyest">'


def report_html(
    trace: EnergyTrace,
    *,
    carbon_intensity: Intensity | None = None,
    pue: float | None = None,
) -> str:
    """A page about a training, complete in itself: no script, and nothing is loaded.

    It says what was trained where, what it cost by device and by epoch, and how projections compare
    with the outcome; of a training under way, what it is projected to cost. It also has what other
    estimators say, emissions, and what was modelled or is missing. It can be printed.

    Args:
        trace: finished or running, of any length.
        carbon_intensity: of the electricity, see `energyest.carbon.co2e_kg`; by default as set in
            the environment or in pyproject.toml.
        pue: power usage effectiveness of the data centre, for the emissions alone; likewise.

    Raises:
        TraceError: it is no trace.
        EnergyestError: an argument is out of its range.
    """
    if not isinstance(trace, EnergyTrace):
        raise TraceError(f"trace is a {type(trace).__name__}: it must be an EnergyTrace")
    basis = emission_basis(trace.meta, intensity=carbon_intensity, pue=pue)
    title = f"Energy of training {model_name(trace) or 'a model'}"
    sections = {
        "What was trained": joined([facts(run_facts(trace)), part_table(trace)]),
        "Energy": joined([facts(total_facts(trace)), _devices(trace)]),
        "Emissions": carbon_facts(trace, basis),
        "Over time": picture_of(trace),
        f"By {trace.unit}": joined(
            [epoch_table(trace, most=_MOST_EPOCHS), level_table(trace)]
            if len(trace)
            else [paragraph(f"No {trace.unit} was recorded.")]
        ),
        "Projection": outcome_of(trace),
        "Other estimators": comparison_of(trace),
        "What is modelled, and what is missing": _missing(trace),
        "Settings and versions": _settings(trace),
    }
    body = [element("h1", title)]
    for heading, content in sections.items():
        body.append(element("section", element("h2", heading), content))
    style = (resources.files("energyest") / "report" / "report.css").read_text("utf-8")
    head = (
        f'{_MARK}\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        # An icon of its own, so that browsers do not ask a server for one.
        '<link rel="icon" href="data:,">\n'
        f"<title>{escaped(title)}</title>\n<style>\n{style}</style>\n</head>\n"
    )
    return f"{head}<body>\n{element('main', *body)}\n</body>\n</html>\n"


def write_report(
    trace: EnergyTrace,
    path: str | Path,
    *,
    carbon_intensity: Intensity | None = None,
    pue: float | None = None,
) -> Path:
    """Write the page of `report_html` to a file.

    Args:
        trace: see `report_html`.
        path: the file, or a folder, in which it is `report.html`. An earlier report is replaced,
            and no other file.
        carbon_intensity: see `report_html`.
        pue: see `report_html`.

    Returns:
        The file.

    Raises:
        TraceError: it is no trace, or the file cannot be written.
        EnergyestError: an argument is out of its range.
    """
    page = report_html(trace, carbon_intensity=carbon_intensity, pue=pue)
    target = Path(path)
    if target.is_dir():
        target /= _FILE
    try:
        save_file(target, page, _is_report)
    except OSError as error:
        raise TraceError(f"the report cannot be written to {target}: {error}") from error
    return target


def _is_report(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_MARK)) == _MARK.encode()
    except OSError:
        return False


def _devices(trace: EnergyTrace) -> Markup:
    return device_table(trace) if trace.devices else paragraph("The trace names no device.")


def _missing(trace: EnergyTrace) -> Markup:
    """How devices were modelled, and what was not measured."""
    modelled = [
        f"{device.get('device')} is modelled: {device.get('method', 'it is not said how')}"
        for device in modelled_devices(trace)
    ]
    unread = int(np.isnan(trace.column("energy_J")).sum())
    gaps = [f"{unread} of {len(trace)} {trace.unit}s were not measured"] if unread else []
    is_told = tells_sources(trace)
    unknown = [] if is_told else ["what was measured and what was modelled is not known"]
    notes = [*modelled, *unknown, *gaps, *notes_of(trace)]
    return listing(notes) if notes else paragraph("Nothing is modelled, and nothing is missing.")


def _settings(trace: EnergyTrace) -> Markup:
    of_run = text_of(read_object(trace.meta, "versions"))
    of_report = text_of(versions())
    parts = [
        facts(text_of(read_object(trace.meta, "hparams")), caption="Hyperparameters"),
        facts(of_run, caption="Versions that the run was recorded with"),
        facts(of_report, caption="Versions that this report was made with"),
    ]
    return joined(parts)
