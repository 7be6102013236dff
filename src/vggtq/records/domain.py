"""Notes on the domain of a model and of its calibration; the same words in runs and in predictions."""

RENDERED = ("objects", "rooms")  # data sets, and calibrations, of procedural scenes


def is_calibrated_elsewhere(calibration: str | None, dataset: str | None) -> bool:
    """Whether a recipe was fitted on rendered scenes and is judged, or used, on photographs."""
    return calibration in RENDERED and dataset is not None and dataset not in RENDERED


def calibration_notes(calibration: str | None, dataset: str) -> list[str]:
    """calibration, dataset: as in `calibration=` and `dataset=`; calibration None: the recipe looks at no data."""
    if not is_calibrated_elsewhere(calibration, dataset):
        return []
    return [
        f"calibration={calibration}: the recipe is fitted on rendered scenes, while dataset={dataset} has photographs; "
        "calibrate on photographs that you do not evaluate: calibration=images calibration.dataset.path=DIR"
    ]


def model_notes(
    name: str, domain: str | None, image_size: int, images: str, random: bool = False
) -> list[str]:
    """domain: the data set that the weights know alone, None where they know many; images: what the model meets."""
    notes = []
    if domain is not None:
        notes.append(
            f"{name} was trained on {domain} alone: {images} are resized to its {image_size} pixels, and it "
            "reconstructs other scenes poorly"
        )
    if random:
        notes.append(f"the weights of {name} are random: fidelity to FP32 is real, reconstruction is not")
    return notes
