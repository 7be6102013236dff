"""key=value command lines, exit statuses, and files that appear whole or not at all."""

import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from vggtq.errors import ConfigError, DataError
from vggtq.files.atomic import replacing
from vggtq.machine import native
from vggtq.terminal.command_line import execute
from vggtq.terminal.help import Command, help_text
from vggtq.terminal.options import option, parse
from vggtq.version import __version__


@dataclass
class Options:
    images: list[str] = option("photographs", words="IMAGES", missing="name a folder: images=DIR")
    out: str = option("folder for the results", "there")
    share: float = option("of the pixels", 0.5)
    size: int | None = option("pixels", None, least=14)
    overwrite: bool = option("replace files", False)
    kind: str = option("of file", "npy", choices=("npy", "png16"))
    frames: list[int] = option("how many", [5, 10], least=1)


@dataclass
class Square:
    sides: list[int] | None = option("height and width", None)


@dataclass
class Words:
    file: str = option("to send", words="FILE", missing="push FILE owner/name")
    repository: str = option("where to", words="OWNER/NAME", missing="push FILE owner/name")
    rows: list[str] = option("some", [], choices=("a", "b"))


@dataclass
class Rest:
    out: str = option("file", "there")
    overrides: list[str] = option("as for a run", [], rest=True)


# A real command's entry, for its line.
COMMAND = Command("predict", Options, ("images=photos", "photos/*.jpg"), "More to know.")


def test_values_have_the_types_of_the_fields() -> None:
    options = parse(["images=a b/c=d", "out=007", "share=1e-1", "size=14", "overwrite=true"], Options)
    assert options == Options(["a b/c=d"], "007", 0.1, 14, True)
    assert parse(["images=[a.jpg, b.jpg]", "size=null"], Options) == Options(["a.jpg", "b.jpg"])
    assert parse(["a,b.jpg", "frames=3,4"], Options) == Options(["a,b.jpg"], frames=[3, 4])
    assert parse(["images=a", "frames=[3, 4]", "kind=png16"], Options) == Options(
        ["a"], kind="png16", frames=[3, 4]
    )


def test_a_list_may_be_left_out() -> None:
    assert parse(["sides=[28,42]"], Square).sides == [28, 42]
    assert parse(["sides=null"], Square).sides is None


def test_words_go_to_their_fields_in_order_and_may_be_named() -> None:
    expected = Words("m.safetensors", "me/x", ["a", "b"])
    assert parse(["m.safetensors", "rows=a,b", "me/x"], Words) == expected
    assert parse(["repository=me/x", "rows=[a,b]", "m.safetensors"], Words) == expected
    with pytest.raises(ConfigError, match="y: one argument too many"):
        parse(["m.safetensors", "me/x", "y"], Words)
    with pytest.raises(ConfigError, match="repository is missing; push FILE owner/name"):
        parse(["m.safetensors"], Words)
    with pytest.raises(ConfigError, match="rows=c is not one of a, b"):
        parse(["m", "me/x", "rows=a,c"], Words)


def test_what_is_no_option_is_left_to_the_configuration() -> None:
    overrides = ["scheme=int4_group", "+experiment=x", "~y", "--config-dir", "d"]
    assert parse([*overrides, "out=here"], Rest) == Rest("here", overrides)
    with pytest.raises(ConfigError, match="out needs a value"):
        parse(["out"], Rest)


def test_words_are_positional_even_with_an_equals_sign_when_they_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "f=1.jpg").touch()
    assert parse(["f=1.jpg", "images=b.jpg", "c.jpg"], Options).images == [
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
        (["--zzz"], "--zzz is not an option; options are images, out, share, size, overwrite, kind, frames"),
        (["--output-dir", "a"], "--output-dir is not an option; did you mean out?"),
        (["image_folder=a"], "image_folder is not an option; did you mean images?"),
        (["images=a", "kind=png"], "kind=png is not one of npy, png16; did you mean png16?"),
        (["images=a", "size=7"], "size=7: use at least 14"),
        (["images=a", "frames=3,0"], "frames=0: use at least 1"),
        (["images=a", "out=b", "out=c"], "out is given twice; give it once"),
        (["images=a", "out"], "out needs a value: out=…"),
        (["images=a", "share=half"], "share=half: expected a number"),
        (["images=a", "share=nan"], "share=nan: expected a number"),
        (["images=a", "size=1.5"], "size=1.5: expected a whole number"),
        (["images=a", "overwrite=ja"], "overwrite=ja: use true or false"),
    ],
)
def test_mistakes_name_the_remedy(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(argv, Options)
    assert str(caught.value) == message


def test_a_word_where_none_is_taken() -> None:
    @dataclass
    class Plain:
        out: str = option("file", "there")

    with pytest.raises(ConfigError, match=r"a\.jpg: expected key=value; options are out"):
        parse(["a.jpg"], Plain)


def _raising(error: BaseException) -> object:
    def work(options: Options) -> None:
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
        assert execute(["x"], COMMAND, _raising(error)) == status  # type: ignore[arg-type]
    told = capfd.readouterr().err
    assert told.startswith(words)
    assert told.count("\n") <= 1


def test_termination_is_like_an_interruption_and_the_handler_comes_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert execute(["x"], COMMAND, lambda options: signal.raise_signal(signal.SIGTERM)) == 143
    assert signal.getsignal(signal.SIGTERM) == before


def test_wrong_usage_may_have_a_status_of_its_own() -> None:
    command = Command("report", Options, ("a",), wrong_usage=2)
    assert execute(["wrong=1"], command, _raising(AssertionError())) == 2  # type: ignore[arg-type]
    assert execute(["x"], command, _raising(DataError("gone"))) == 1  # type: ignore[arg-type]
    assert execute(["x"], command, lambda options: 3) == 3


@pytest.mark.parametrize("argv", [[], ["--help"], ["a=b", "-h"], ["help"]])
def test_help(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(argv, COMMAND, _raising(AssertionError())) == 0  # type: ignore[arg-type]
    assert capsys.readouterr().out == help_text(COMMAND)


def test_without_anything_that_is_needed_no_argument_is_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["vggtq"])
    asked: list[Rest] = []
    assert execute(None, Command("export", Rest, ("",)), asked.append) == 0
    assert asked == [Rest()]


def test_help_is_made_from_the_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert (
        help_text(COMMAND)
        == """\
vggtq predict: depth, cameras and a coloured point cloud of photographs, from a model file

Usage: vggtq predict IMAGES [key=value …]
  vggtq predict images=photos
  vggtq predict photos/*.jpg

Options:
  images     text,…      photographs (required)
  out        text        folder for the results (default there)
  share      number      of the pixels (default 0.5)
  size       integer     pixels (default null)
  overwrite  true|false  replace files (default false)
  kind       npy|png16   of file (default npy)
  frames     integer,…   how many (default 5,10)

More to know.
"""
    )
    assert max(map(len, help_text(COMMAND).splitlines())) <= 100


def test_the_version_is_that_of_vggtq(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["--version"], COMMAND, _raising(AssertionError())) == 0  # type: ignore[arg-type]
    assert capsys.readouterr().out == f"{__version__}\nnative CPU kernels: {native.describe()}\n"


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
