"""runctl's controller and command line."""

__version__ = "0.1.0"
