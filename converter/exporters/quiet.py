"""Keeps the toolchains' output off the terminal."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences file descriptors 1 and 2, and Python's warnings and logs.

    It redirects the descriptors, not ``sys.stdout``, since much of the output comes from C++. If the block fails and
    ``GHOSTWATT_TRACEBACK`` is 1, the output is printed to stderr afterwards.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [(stream, os.dup(stream)) for stream in (1, 2)]
    with tempfile.TemporaryFile() as said, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        level = logging.root.manager.disable
        logging.disable(logging.WARNING)
        for stream, _ in saved:
            os.dup2(said.fileno(), stream)
        failed = True
        try:
            yield
            failed = False
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for stream, copy in saved:
                os.dup2(copy, stream)
                os.close(copy)
            logging.disable(level)
            if failed and os.environ.get("GHOSTWATT_TRACEBACK") == "1":
                said.seek(0)
                sys.stderr.write(said.read().decode(errors="replace"))
