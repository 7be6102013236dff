"""vggtq: which quantization of VGGT should you ship?"""

__version__ = "0.1.0"
