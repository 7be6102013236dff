"""The version of this package, on the lowest floor so that every package may say it."""

__version__ = "0.1.0"
