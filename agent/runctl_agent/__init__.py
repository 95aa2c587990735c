"""runctl's agent: runs beside the training on every machine."""

__version__ = "0.1.0"
