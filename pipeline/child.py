"""Child processes that end when this one does, however that goes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

# Seconds between two looks at whether the parent still lives.
PARENT_CHECK = 1.0


def start_child(
    code: str, arguments: Sequence[str] = (), **options: Any
) -> subprocess.Popen[bytes]:
    """Run Python ``code`` in a process of its own, with ``arguments`` as sys.argv[1:].

    Ctrl-C does not reach it: that is this process's to handle. It ends within a second or so
    after this one has gone, even if that was killed.

    Args:
        options: further ones for subprocess.Popen.
    """
    guarded = f"from pipeline.child import end_with; end_with({os.getpid()}); {code}"
    return subprocess.Popen(
        [sys.executable, "-c", guarded, *arguments],
        stdin=subprocess.DEVNULL,
        process_group=0,
        **options,
    )


def end_with(parent: int) -> None:
    """End this process when the one with the id ``parent`` has gone."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_CHECK)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
