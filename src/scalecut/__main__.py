"""`python -m scalecut` is the `scalecut` command."""

from .cli.app import main

main()
