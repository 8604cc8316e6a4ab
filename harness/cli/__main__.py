"""`python -m harness.cli` is the command `flashattest`."""

import sys

from harness.cli.main import main

sys.exit(main())
