"""``hearth``, and ``python -m cli`` from a checkout."""

from __future__ import annotations

import sys


def main() -> None:
    """Console script. Ctrl-C counts while the commands are imported, too."""
    try:
        from cli.main import main
    except KeyboardInterrupt:
        sys.exit(130)  # `cli.failures` may not be there yet
    main()


# Processes that a command starts import this module again.
if __name__ == "__main__":
    main()
