"""The report: one self-contained HTML page computed from a run record."""

from cutlayer_profiles.report.page import write_report

__all__ = ["write_report"]
