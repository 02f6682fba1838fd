"""``hearth up`` with an engine that only counts; all else is the node that people run.

python -m tests.chaos.victim_node up --home DIR --model FILE.gguf …
"""

from __future__ import annotations

import sys
from unittest.mock import patch

from cli.main import hearth
from tests.support.token_source import TokenSource

if __name__ == "__main__":
    with patch("overlay.engines.LlamaEngine", TokenSource):
        hearth(sys.argv[1:])
