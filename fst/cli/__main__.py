"""`python -m fst.cli`: the same as `fst`."""

import sys

from fst.cli import main

sys.exit(main())
