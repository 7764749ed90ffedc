"""`python -m taskmill …` is `taskmill …`."""

import sys

from taskmill.cli import main

sys.exit(main())
