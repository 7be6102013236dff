"""Quantization-aware fine-tuning of any module by its own float outputs (docs/qat.md)."""
