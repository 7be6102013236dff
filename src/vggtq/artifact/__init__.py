"""A quantized model as one safetensors file: packed weights, scales, and the recipe that made them."""

from vggtq.artifact.header import SUFFIX, checked_path, read_header
from vggtq.artifact.read import QuantizedModel, load, load_into_
from vggtq.artifact.write import Saved, save

__all__ = ["SUFFIX", "QuantizedModel", "Saved", "checked_path", "load", "load_into_", "read_header", "save"]
