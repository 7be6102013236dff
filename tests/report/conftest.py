"""Reports without their charts, for tests of texts: drawing takes most of the time that a report takes."""

import pytest


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts are files with a few bytes."""
    monkeypatch.setattr(
        "vggtq.report.charts.sheet.save_figure", lambda make, path: path.write_bytes(b"chart")
    )
