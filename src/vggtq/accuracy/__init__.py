"""Every table of docs/accuracy.md from the runs of a plan: vggtq accuracy."""
