"""Start the `lemix` command, whatever folders lie in the working directory."""

from __future__ import annotations

import importlib
import sys

from lemix_opt.rooms import put_home_first


def main() -> None:
    """Run the command; a folder that hides a room is named and passed over."""
    for shadow in put_home_first():
        sys.stderr.write(f"lemix: passed over a folder with a room's name: {shadow}\n")
    importlib.import_module("experiments.cli").main()


if __name__ == "__main__":
    main()
