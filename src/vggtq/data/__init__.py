"""Datasets: one dataclass per source of images, each with `scenes() -> Iterator[Scene]`."""
