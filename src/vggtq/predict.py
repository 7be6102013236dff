"""`python -m vggtq.predict`: depth, cameras and a point cloud of photographs, from a model file that export wrote."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from vggtq.command_line import execute, log_lines, one_of, parse
from vggtq.errors import ConfigError

HELP = """\
Depth, confidence, cameras and a coloured point cloud of photographs of one place.

  python -m vggtq.predict model=FILE images=DIR out=DIR [key=value…]

model          a model file that python -m vggtq.export wrote
images         a folder, a file, a pattern such as 'photos/*.jpg', or a list [a.jpg,b.jpg]; files may also be given
               without images=; the camera of the first image is the world frame
out            a folder for the results; made if need be
depth          npy (default, float32) or png16 (16-bit PNG; depth/scale.json says what a grey level is)
points         depth (default: depth seen through the cameras) or head (the model's own point maps)
confidence     percent of pixels to leave out of the point cloud, the least confident first; default 30
colmap_points  most points in the COLMAP model, spread evenly; default 100000
mode           crop (default: full width, top and bottom of tall images cut) or pad (whole image, white borders)
image_size     pixels of the longer side as the model sees it; default: what the model was made for
device         auto (default), cpu or cuda
threads        CPU threads; default: torch's choice
overwrite      true: replace an earlier prediction in out

Writes  depth/ confidence/ preview/   one file per image
        cameras.json  colmap/         cameras for vggtq's dataset=images and for COLMAP
        points.ply  preview.png       the coloured points, and everything at a glance
        prediction.json               model, command, versions, images, sizes: written last

  python -m vggtq.predict model=model.safetensors images=photos out=reconstruction
  python -m vggtq.predict model=model.safetensors out=reconstruction depth=png16 confidence=50 photos/*.jpg
"""


@dataclass
class Options:
    """What to predict from what, and how to write it down; see HELP."""

    model: str = field(
        metadata={"example": "give a file that python -m vggtq.export wrote: model=model.safetensors"}
    )
    images: list[str] = field(metadata={"example": "name the folder of your photographs: images=DIR"})
    out: str = field(metadata={"example": "name a folder for the results: out=DIR"})
    depth: str = "npy"
    points: str = "depth"
    confidence: float = 30.0
    colmap_points: int = 100_000
    mode: str = "crop"
    image_size: int | None = None
    device: str = "auto"
    threads: int | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        one_of("depth", self.depth, ("npy", "png16"))
        one_of("points", self.points, ("depth", "head"))
        one_of("mode", self.mode, ("crop", "pad"))
        one_of("device", self.device, ("auto", "cpu", "cuda"))
        if not 0 <= self.confidence < 100:
            raise ConfigError(f"confidence={self.confidence:g}: percent to leave out, from 0 to below 100")
        if self.colmap_points < 0:
            raise ConfigError(f"colmap_points={self.colmap_points}: use 0 for none, or more")
        if self.image_size is not None and (self.image_size < 14 or self.image_size % 14):
            raise ConfigError(f"image_size={self.image_size} is not a positive multiple of the patch size 14")
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"threads={self.threads}: use at least 1")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 an error, 130 or 143 interrupted."""
    return execute(sys.argv[1:] if argv is None else argv, HELP, _work)


def _work(argv: Sequence[str]) -> None:
    options = parse(argv, Options, positional="images")
    # torch takes over a second to import; a misspelt option should not have to wait for it
    from vggtq.prediction.pipeline import predict

    with log_lines():
        predict(options, list(argv))


if __name__ == "__main__":
    sys.exit(main())
