"""The version of rocktok, once."""

__version__ = "0.1.0"
