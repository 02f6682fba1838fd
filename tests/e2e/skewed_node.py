"""``hearth``, whose wall clock is as many seconds ahead as a file says at that moment.

python -m tests.e2e.skewed_node FILE up --home DIR …
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from unittest.mock import patch

from cli.main import hearth

if __name__ == "__main__":
    ahead_s, right = Path(sys.argv[1]), time.time
    with patch("time.time", lambda: right() + float(ahead_s.read_text())):
        hearth(sys.argv[2:])
