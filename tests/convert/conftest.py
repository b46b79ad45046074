"""The host's packages may be absent, and torch need not fight the other tests for cores."""

from __future__ import annotations

import pytest

try:
    import torch
except ImportError:
    pytest.skip("the host's packages are not installed: make setup", allow_module_level=True)

torch.set_num_threads(1)
