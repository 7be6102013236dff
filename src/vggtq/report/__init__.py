"""Merge the records of many runs into tables, charts and a recommendation. Imports no torch."""

from vggtq.report.build import build_report, summary_of
from vggtq.report.columns import COLUMNS
from vggtq.report.frame import frame_of, record_row
from vggtq.report.results import Report
from vggtq.report.tables import summary_table

__all__ = ["COLUMNS", "Report", "build_report", "frame_of", "record_row", "summary_of", "summary_table"]
