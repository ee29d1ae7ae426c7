"""The entry point of the command ``perturbfm`` and of ``python -m perturbfm_core.cli``."""

from __future__ import annotations

import os
import signal
from typing import Any


def main() -> None:
    """Load the command line and run it; Ctrl-C while it loads ends with one line, as it does later."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)
    from perturbfm_core.cli.main import main as run

    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, before)
    run()


def _end(*_: Any) -> None:
    """End at once: libraries that are half loaded have nothing to put in order, and may drop an exception."""
    os.write(2, b"interrupted; nothing half-written was left\n")
    os._exit(130)


if __name__ == "__main__":
    main()
