"""``python -m cli``: the ``hearth`` command from a checkout."""

from cli.main import main

main()
