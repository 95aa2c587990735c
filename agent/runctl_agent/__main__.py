"""``python -m runctl_agent``."""

from __future__ import annotations

import sys

from runctl_agent.main import main

sys.exit(main())
