"""The options of `vggtq predict`."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from vggtq.errors import ConfigError
from vggtq.network.memory import Memory
from vggtq.predict.windows.options import AUTO, Windows
from vggtq.terminal.options import option

OF_LAUNCHERS = ("hydra/launcher=", "hydra.launcher.", "hydra.sweeper.")


@dataclass(kw_only=True)
class Options:
    """The model and images of a prediction, and the files to write."""

    model: str = option(
        "a model file that vggtq export wrote",
        missing="give a file that vggtq export wrote: model=model.safetensors",
    )
    images: list[str] = option(
        "a folder, a file, a pattern such as 'photos/*.jpg', or a list [a.jpg,b.jpg]; files may also be given without "
        "images=; the camera of the first image is the world frame",
        [],
        words="IMAGES",
    )
    scenes: list[str] = option(
        "instead of images: folders of photographs, each a scene of its own with results in out/NAME; a pattern such as "
        "'photos/*', or a list [a,b]; scenes that are predicted already are skipped",
        [],
    )
    jobs: int | None = option(
        "with scenes=: processes that share the scenes, started by hydra/launcher=…; null: as many as the launcher runs at "
        "a time",
        None,
        least=1,
    )
    out: str = option(
        "a folder for the results; made if need be", missing="name a folder for the results: out=DIR"
    )
    depth: str = option(
        "float32 arrays, or 16-bit PNG of which depth/scale.json says what a grey level is",
        "npy",
        choices=("npy", "png16"),
    )
    points: str = option(
        "depth seen through the cameras, or the model's own point maps; a model without a field of view always takes these",
        "depth",
        choices=("depth", "head"),
    )
    confidence: float = option(
        "percent of pixels to leave out of the point cloud, the least confident first", 30.0
    )
    colmap_points: int = option("most points in the COLMAP model, spread evenly", 100_000)
    viewer: str = option(
        "file writes scene.rrd, a recording for the viewer of rerun; open shows it as well; needs vggtq[viewer]",
        "none",
        choices=("none", "file", "open"),
    )
    compare: str | None = option(
        "another model file of the same network; scene.rrd shows what both make of the images, side by side",
        None,
    )
    mode: str | None = option(
        "how images are prepared: crop, full width, top and bottom of tall images cut; pad, the whole image, white borders; "
        "area, balanced and max_size, docs/models.md; null: as for the model's training",
        None,
        choices=("crop", "pad", "area", "balanced", "max_size"),
    )
    image_size: int | None = option(
        "pixels of the longer side as the model sees it; null: what the model was made for", None
    )
    budget_gb: float | None = option(
        "GiB that the whole prediction may take; planned before the model is loaded, by the levers below; VGGT on a CPU; with "
        "windows.frames=auto windows are the last lever",
        None,
    )
    memory: Memory = field(default_factory=Memory)
    windows: Windows = field(default_factory=Windows)
    device: str = option("where the model runs", "auto", choices=("auto", "cpu", "cuda"))
    threads: int | None = option("CPU threads; null: torch's choice", None, least=1)
    overwrite: bool = option(
        "replace an earlier prediction in out; with scenes=, predict all of them again", False
    )
    plugins: list[str] = option("modules of your own that the model was made with, e.g. [my_methods]", [])

    def __post_init__(self) -> None:
        self._check_scenes()
        if self.compare is not None:
            self.viewer = "file" if self.viewer == "none" else self.viewer
            if self.budget_gb is not None:
                raise ConfigError(
                    f"budget_gb={self.budget_gb:g} with compare={self.compare}: plans are made for one model, not for two; "
                    "leave budget_gb out, or use the memory.… options"
                )
        if self.budget_gb is None and self.windows.frames == AUTO:
            raise ConfigError(
                "windows.frames=auto without budget_gb: the memory decides how many images fit; give budget_gb=4, or a number"
            )
        if self.budget_gb is not None and self.budget_gb <= 0:
            raise ConfigError(f"budget_gb={self.budget_gb:g}: GiB, more than 0")
        if not 0 <= self.confidence < 100:
            raise ConfigError(f"confidence={self.confidence:g}: percent to leave out, from 0 to below 100")
        if self.colmap_points < 0:
            raise ConfigError(f"colmap_points={self.colmap_points}: use 0 for none, or more")

    def _check_scenes(self) -> None:
        if not self.scenes:
            if not self.images:
                raise ConfigError("images is missing; name the folder of your photographs: images=DIR")
            if self.jobs is not None:
                raise ConfigError(
                    f"jobs={self.jobs} without scenes=: one prediction is one process; leave jobs out"
                )
        elif self.images:
            raise ConfigError(
                f"scenes={','.join(self.scenes)} with images={' '.join(self.images)}: give one of them; scenes= takes each "
                "folder as a scene of its own, images= all images as one scene"
            )
        elif self.viewer == "open":
            raise ConfigError("viewer=open with scenes=: a window for each scene; use viewer=file")


def for_launcher(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The overrides of Hydra's launcher and sweeper among the arguments, and the others."""
    ours = [argument for argument in argv if argument.lstrip("+~").startswith(OF_LAUNCHERS)]
    return ours, [argument for argument in argv if argument not in ours]
