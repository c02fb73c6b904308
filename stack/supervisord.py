"""supervisord as the one who inherits orphans: `python -m stack.supervisord ARGUMENTS`."""

from __future__ import annotations

import ctypes
import sys

from supervisor.supervisord import main

_PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>

if __name__ == "__main__":
    if sys.platform == "linux":
        # What a crashed service leaves becomes supervisord's child, which waits for it: no zombies under a PID 1
        # that does not, as in many containers.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    main()
