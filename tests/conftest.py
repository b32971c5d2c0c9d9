"""Shared test configuration."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the graphs are tiny; more threads would be slower
sys.path.insert(0, str(Path(__file__).parent))

# background jobs of a shell ignore SIGINT; the tests of Ctrl-C must not depend on how they were started
signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="graphlearn-cache-")  # not the user's measured costs
