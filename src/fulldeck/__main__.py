"""`python -m fulldeck` is the `fulldeck` command."""

import sys

from fulldeck.cli import main

if __name__ == "__main__":
    sys.exit(main())
