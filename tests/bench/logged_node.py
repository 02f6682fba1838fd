"""``hearth``, whose nodes tell on stderr whom they judge up and down, and when (Unix time)."""

from __future__ import annotations

import logging

from cli.main import hearth

if __name__ == "__main__":
    logging.basicConfig(format="%(created).3f %(message)s")
    logging.getLogger("overlay.mesh_log").setLevel(logging.INFO)
    hearth()
