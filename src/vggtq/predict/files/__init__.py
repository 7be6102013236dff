"""The files that `vggtq predict` writes of a prediction, one kind of file per module."""
