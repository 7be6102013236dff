"""Merge the records of many runs into tables, charts and a recommendation. Imports no torch."""

from vggtq.report.build import build_report, summary_of
from vggtq.report.documents.results import Report
from vggtq.report.rows.columns import COLUMNS, columns
from vggtq.report.rows.row import frame_of, record_row

__all__ = ["COLUMNS", "Report", "build_report", "columns", "frame_of", "record_row", "summary_of"]
