"""`python -m rocktok`."""

from rocktok.cli import main

main()
