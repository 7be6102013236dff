"""The native CPU kernels: C++ sources, the layout of their weights, and their operator."""
