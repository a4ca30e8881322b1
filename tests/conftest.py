"""Settings of all tests."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# The same examples each time, so that a change is what makes a test fail; FP16FIX_RANDOM=1 looks for new ones.
settings.register_profile("same", derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("random", suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("random" if os.environ.get("FP16FIX_RANDOM") else "same")

# Where Python is told to keep no bytecode (images of containers do), each command that a test starts would compile the
# package anew: half of what a short one takes.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
