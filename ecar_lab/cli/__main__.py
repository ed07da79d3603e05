"""``python -m ecar_lab.cli`` is the command ``ecar`` under another name."""

import sys

from ecar_lab.cli.main import main

sys.exit(main())
