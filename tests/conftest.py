"""Quiet TensorFlow, before any test imports it; patience with a busy machine."""

from __future__ import annotations

import os

from hypothesis import settings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# How long an example takes says nothing here: other work on the machine would fail tests.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")
