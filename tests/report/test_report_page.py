"""The page as a file: complete, quiet, and nothing a user named can become markup."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.page_records import HOSTILE, records, runs
from helpers.report_records import many, read, row_of
from vggtq.report import build_report
from vggtq.report.page.data import export_command
from vggtq.report.page.geometry import PAGE_BYTES
from vggtq.report.page.html import FOLDER, SCRIPTS, embedded
from vggtq.report.page.sensitivity import sensitivities_of
from vggtq.report.rows.groups import group_rows
from vggtq.report.rows.recommend import NEEDS, choose, rankings
from vggtq.report.words.texts import TEXTS


class Elements(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.contents: dict[int, str] = {}
        self.inside = False
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))
        self.inside = True

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, content: str) -> None:
        if self.inside:
            self.contents[len(self.found) - 1] = self.contents.get(len(self.found) - 1, "") + content

    def of(self, tag: str) -> list[tuple[dict[str, str | None], str]]:
        return [(own, self.contents.get(i, "")) for i, (name, own) in enumerate(self.found) if name == tag]


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("page")
    build_report([runs(folder / "runs")], folder / "out")
    return (folder / "out" / "index.html").read_text(encoding="utf-8")


def test_runs_that_measured_the_same_share_one_map_of_sensitivities() -> None:
    measured = {"bits": [2, 4], "layers": ["a", "b + c"], "relative_error": [[0.5, 0.1], [0.25, 0.05]]}
    layers = [{"name": "a", "bits": 2}, {"name": "b", "bits": 4}, {"name": "c", "bits": 4}]
    good = {"allocation": {"sensitivity": measured}, "layers": layers}
    cut = {"allocation": {"sensitivity": measured | {"relative_error": [[0.5, 0.1], [0.25]]}}}
    odd = {"allocation": {"sensitivity": measured | {"bits": None}}}
    found = sensitivities_of(enumerate(map(read, [{}, good, cut, odd, good])))
    assert found["maps"] == [{"bits": [2, 4], "layers": ["a", "b + c"], "errors": measured["relative_error"]}]
    assert found["rows"] == {1: {"map": 0, "picked": [2, 4]}, 4: {"map": 0, "picked": [2, 4]}}


def data_of(html: str) -> dict:
    ((_, content),) = [script for script in Elements(html).of("script") if script[0].get("type")]
    return json.loads(content, parse_constant=pytest.fail)


def test_names_of_users_are_data_and_never_markup(html: str) -> None:
    assert HOSTILE not in html and len(Elements(html).of("script")) == 2
    data = data_of(html)
    assert HOSTILE in {row[data["rows"]["columns"].index("title")] for row in data["rows"]["values"]}
    assert HOSTILE in json.dumps(data["geometry"]["scenes"])


@given(
    st.recursive(
        st.text() | st.integers() | st.none(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_embedded_data_come_back_and_cannot_end_their_element(value: object) -> None:
    assert json.loads(embedded(value)) == value
    assert not set("<>&") & set(embedded(value))


def test_the_policy_allows_this_script_and_style_and_nothing_else(html: str) -> None:
    elements = Elements(html)
    ((policy, _),) = [meta for meta in elements.of("meta") if meta[0].get("http-equiv")]
    ((_, style),) = elements.of("style")
    ((_, script),) = [found for found in elements.of("script") if not found[0].get("type")]
    digests = [base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in (style, script)]
    expected = f"default-src 'none'; style-src 'sha256-{digests[0]}'; script-src 'sha256-{digests[1]}'; "
    assert policy["content"] == expected + "base-uri 'none'; form-action 'none'"
    assert not [own for _, own in elements.found if own.keys() & {"src", "style", "onclick", "onload"}]


def test_no_script_makes_markup_of_text_or_asks_for_anything() -> None:
    source = "".join((FOLDER / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS)
    for forbidden in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "fetch(",
        "XMLHttpRequest",
    ):
        assert forbidden not in source
    assert {path.stem for path in FOLDER.glob("*.js")} == set(SCRIPTS)


def test_every_text_the_page_asks_for_exists() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in FOLDER.iterdir())
    asked = set(re.findall(r'\bt\("([^"]+)"', source)) | set(
        re.findall(r'data-(?:t|label)="([^"]+)"', source)
    )
    asked |= set(re.findall(r'(?:key|label): "(p\.[^"]+)"', source))
    assert len(asked) > 60 and asked <= TEXTS.keys()


def test_both_themes_have_enough_contrast() -> None:
    style = (FOLDER / "page.css").read_text(encoding="utf-8")
    light, dark = (
        dict(re.findall(r"--([\w-]+): (#\w{6})", part)) for part in style.split("@media screen")[:2]
    )
    for theme in (light, light | dark):
        pairs = [
            (ink, paper) for ink in ("ink", "soft", "link", "accent", "second") for paper in ("page", "panel")
        ]
        pairs += [(grade, f"{grade}-back") for grade in ("excellent", "good", "acceptable", "poor")]
        for ink, paper in pairs:
            assert contrast(theme[ink], theme[paper]) >= 4.5, (ink, paper)


def contrast(one: str, other: str) -> float:
    """WCAG 2.2."""

    def luminance(color: str) -> float:
        shares = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@settings(max_examples=40)
@given(st.sets(st.integers(0, 29)), st.sampled_from(NEEDS))
def test_the_choice_within_limits_is_the_first_of_the_ranking(left: set[int], need: str) -> None:
    (group,) = group_rows([row_of(made) for made in many(30)])
    rows = [row for i, row in enumerate(group.rows) if i in left]
    ranked = rankings(need, group.rows)
    first = next((row for own in ranked.values() for row in own if any(row is other for other in rows)), None)
    assert first is choose(need, rows).row


def test_a_run_exports_with_its_own_options() -> None:
    command = "python -m vggtq.run +experiment=eight_schemes +variant=int4_group64 'model.source=a b' hydra.mode=RUN"
    expected = "python -m vggtq.export +variant=int4_group64 'model.source=a b' out=model.safetensors"
    assert export_command(command) == expected
    assert export_command("make run") is None and export_command("python 'a") is None


def test_layers_stand_in_the_networks_order_and_exact_ones_are_marked(html: str) -> None:
    layers = data_of(html)["layers"]
    assert layers["names"] == [layer["name"] for layer in records()[1]["layers"]]
    assert {tuple(own[-2:]) for own in layers["rows"].values()} == {
        (28.0, "exact"),
        (3.0, "exact"),
        (8.0, "exact"),
    }


def test_what_runs_share_is_stored_once(html: str) -> None:
    geometry = data_of(html)["geometry"]
    assert len(geometry["blobs"]) == len(set(geometry["blobs"]))
    assert [len(scene["runs"]) for scene in geometry["scenes"]] == [4, 1, 1]
    assert not geometry["problems"] and geometry["left_out"] == 0


@pytest.mark.usefixtures("undrawn")
def test_geometry_that_cannot_be_read_is_named_and_the_rest_shown(tmp_path: Path) -> None:
    folder = runs(tmp_path / "runs")
    (folder / "run_0" / "preview.safetensors").write_bytes(b"no such thing")
    (folder / "run_1" / "preview.safetensors").unlink()
    outside = tmp_path / "outside.safetensors"
    (folder / "run_3" / "preview.safetensors").rename(outside)
    record = json.loads((folder / "run_3" / "result.json").read_text()) | {
        "preview": "../../outside.safetensors"
    }
    (folder / "run_3" / "result.json").write_text(json.dumps(record))
    build_report([folder], tmp_path / "out")
    geometry = data_of((tmp_path / "out" / "index.html").read_text(encoding="utf-8"))["geometry"]
    assert len(geometry["problems"]) == 3 and outside.exists()
    assert sum(len(scene["runs"]) for scene in geometry["scenes"]) == 2


@pytest.mark.usefixtures("undrawn")
def test_the_page_stays_below_its_limit_and_says_what_it_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vggtq.report.page.geometry.PAGE_BYTES", 2_000_000 + 50_000)
    build_report([runs(tmp_path / "runs")], tmp_path / "out")
    assert data_of((tmp_path / "out" / "index.html").read_text(encoding="utf-8"))["geometry"]["left_out"] > 0
    assert (tmp_path / "out" / "index.html").stat().st_size < PAGE_BYTES


@pytest.mark.usefixtures("undrawn")
def test_a_report_of_failures_alone_has_a_page(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "one"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps({"schema_version": 1, "status": "failed"}))
    build_report([tmp_path / "runs"], tmp_path / "out", "zh")
    html = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert data_of(html)["lang"] == "zh" and '<html lang="zh-CN">' in html
