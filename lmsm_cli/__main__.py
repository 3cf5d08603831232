"""Run the command line with `python -m lmsm_cli`."""

import sys

from lmsm_cli.commands.app import main

if __name__ == "__main__":
    sys.exit(main())
