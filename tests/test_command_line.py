"""key=value command lines, exit statuses, and files that appear whole or not at all."""

import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from vggtq.atomic import replacing
from vggtq.command_line import execute, parse
from vggtq.errors import ConfigError, DataError


@dataclass
class Options:
    images: list[str] = field(metadata={"example": "name a folder: images=DIR"})
    out: str = "there"
    share: float = 0.5
    size: int | None = None
    overwrite: bool = False


def test_values_have_the_types_of_the_fields() -> None:
    options = parse(["images=a b/c=d", "out=007", "share=1e-1", "size=14", "overwrite=true"], Options)
    assert options == Options(["a b/c=d"], "007", 0.1, 14, True)
    assert parse(["images=[a.jpg, b.jpg]", "size=null"], Options) == Options(["a.jpg", "b.jpg"])


def test_words_are_positional_even_with_an_equals_sign_when_they_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "f=1.jpg").touch()
    assert parse(["f=1.jpg", "images=b.jpg", "c.jpg"], Options, "images").images == [
        "b.jpg",
        "f=1.jpg",
        "c.jpg",
    ]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "images is missing; name a folder: images=DIR"),
        (["images="], "images is missing; name a folder: images=DIR"),
        (["imags=a"], "imags is not an option; did you mean images?"),
        (["--out=a"], "--out: options are written without dashes: out=…"),
        (["--out", "a"], "--out: options are written without dashes: out=…"),
        (["--zzz"], "--zzz is not an option; options are images, out, share, size, overwrite"),
        (["images=a", "out=b", "out=c"], "out is given twice; give it once"),
        (["images=a", "out"], "out needs a value: out=…"),
        (["images=a", "share=half"], "share=half: expected a number"),
        (["images=a", "share=nan"], "share=nan: expected a number"),
        (["images=a", "size=1.5"], "size=1.5: expected a whole number"),
        (["images=a", "overwrite=ja"], "overwrite=ja: use true or false"),
        (["a.jpg"], "a.jpg: expected key=value; options are images, out, share, size, overwrite"),
    ],
)
def test_mistakes_name_the_remedy(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(argv, Options)
    assert str(caught.value) == message


def _raising(error: BaseException) -> object:
    def work(argv: Sequence[str]) -> None:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (DataError("two\nlines"), 1, "error: two lines\n"),
        (PermissionError(13, "Permission denied", "x/y"), 1, "error: x/y: Permission denied; check the path"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (BrokenPipeError(), 1, ""),
    ],
)
def test_every_end_has_a_status_and_one_line(
    error: BaseException, status: int, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", open("/dev/null", "w"))  # noqa: PTH123, SIM115  # a broken pipe replaces it
        assert execute(["x"], "help", _raising(error)) == status  # type: ignore[arg-type]
    told = capfd.readouterr().err
    assert told.startswith(words)
    assert told.count("\n") <= 1


def test_termination_is_like_an_interruption_and_the_handler_comes_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert execute(["x"], "", lambda argv: signal.raise_signal(signal.SIGTERM)) == 143
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("argv", [[], ["--help"], ["a=b", "-h"], ["help"]])
def test_help(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(argv, "how to\n", _raising(AssertionError())) == 0  # type: ignore[arg-type]
    assert capsys.readouterr().out == "how to\n"


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / ("长" * 84 + ".t")  # 254 bytes: as long as names may be
    with replacing(path) as temporary:
        temporary.write_text("one")
        assert not path.exists()
    with pytest.raises(KeyboardInterrupt), replacing(path) as temporary:
        temporary.write_text("tw")
        raise KeyboardInterrupt
    assert path.read_text() == "one"
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    plain = path.parent / "plain"
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode
