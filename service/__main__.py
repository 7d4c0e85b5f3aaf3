"""`orders`, also as `python -m service`: nothing is imported before Ctrl-C is cared for."""

from __future__ import annotations

import sys


def main() -> None:
    try:
        from service.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
