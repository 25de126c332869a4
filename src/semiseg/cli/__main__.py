"""Run the command line as ``python -m semiseg.cli``."""

import sys

from semiseg.cli import main

sys.exit(main())
