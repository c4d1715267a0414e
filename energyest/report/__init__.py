"""A training as one HTML page: what it cost, and how that was measured and projected."""

from energyest.report.card import trace_card
from energyest.report.page import report_html, write_report

__all__ = ["report_html", "trace_card", "write_report"]
