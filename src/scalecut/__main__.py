"""`python -m scalecut` is the `scalecut` command."""

from .cli import main

main()
