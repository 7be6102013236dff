"""`vggtq predict`: depth, cameras and a point cloud of photographs, from a model file that export wrote."""

import sys
from collections.abc import Sequence

from vggtq.config.compose import config_folders
from vggtq.errors import ConfigError
from vggtq.plugins import load_plugins
from vggtq.predict.options import Options, for_launcher
from vggtq.terminal.command_line import execute
from vggtq.terminal.help import Command
from vggtq.terminal.logs import log_lines

COMMAND = Command(
    "predict",
    Options,
    (
        "model=model.safetensors images=photos out=reconstruction",
        "model=model.safetensors out=reconstruction depth=png16 confidence=50 photos/*.jpg",
        "model=model.safetensors images=video out=reconstruction windows.frames=32",
        "model=model.safetensors images=video out=reconstruction windows.frames=auto budget_gb=4",
        "model=int8.safetensors compare=int4.safetensors images=photos out=both viewer=open",
        "model=model.safetensors scenes='photos/*' out=scenes hydra/launcher=joblib hydra.launcher.n_jobs=2 threads=4",
    ),
    """\
Writes  depth/ confidence/ preview/   one file per image
        cameras.json  colmap/         cameras for vggtq's dataset=images and for COLMAP
        transforms.json               cameras for nerfstudio and Gaussian splatting
        points.ply  preview.png       the coloured points, and everything at a glance
        scene.glb                     points and cameras for Blender and browsers
        scene.rrd                     with viewer= or compare=: a recording for rerun
        prediction.json               model, command, versions, images, sizes: written last
        scenes.json                   with scenes=: what became of each scene, beside their folders

scenes= and windows.frames= go on where they were interrupted, when the same command is given again.
hydra/launcher=joblib|slurm|ray and their options are those of sweeps (docs/sweeps.md).
--config-dir DIR adds a folder of your own configurations, as for vggtq run.
""",
    before=lambda argv: for_launcher(config_folders(argv)[1])[1],
)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 an error, 130 or 143 interrupted."""
    argv = sys.argv[1:] if argv is None else argv
    return execute(argv, COMMAND, lambda options: _work(options, argv))


def _work(options: Options, argv: Sequence[str]) -> int:
    launcher, _ = for_launcher(argv)
    if launcher and not options.scenes:
        raise ConfigError(
            f"{launcher[0]} without scenes=: launchers share out many scenes; give scenes='DIR/*', or leave it out"
        )
    load_plugins(options.plugins)
    # torch takes over a second to import; a misspelt option should not have to wait for it
    if options.scenes:
        from vggtq.predict.scenes.run import predict_scenes

        return predict_scenes(options, list(argv))
    from vggtq.predict.pipeline import predict

    with log_lines():
        predict(options, list(argv))
    return 0


if __name__ == "__main__":
    sys.exit(main())
