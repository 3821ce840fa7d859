"""`python -m rocktok`."""

from rocktok.cli import run

run()
