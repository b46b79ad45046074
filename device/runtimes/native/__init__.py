"""The C++ between `device.runtimes.executorch` and ExecuTorch, and what builds it."""
