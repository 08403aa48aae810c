"""The version, read by the build and by `pipe --version`."""

__version__ = "0.1.0"
