"""Shared test configuration."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the graphs are tiny: threads would only wait for each other
sys.path.insert(0, str(Path(__file__).parent))

# a shell's background jobs ignore SIGINT, and the tests of Ctrl-C must not depend on how they were started
signal.signal(signal.SIGINT, signal.default_int_handler)
