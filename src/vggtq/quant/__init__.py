"""Quantization of any torch module: schemes, rounding, packing, layers and their kernels."""
