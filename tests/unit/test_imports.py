"""Who may import which library: the one file that wraps it, and at module level only where that file is imported on demand."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

DEVICE = Path(__file__).parents[2] / "device"

BASE = {"device", "numpy", "msgspec"}
"""What every board has: all the rest builds on it."""

WRAPPERS = {
    "image/opencv.py": {"cv2"},
}
"""File -> the library that it alone wraps, and imports at module level: itself imported when a profile or a flag names it.

Plug-ins import theirs when they open: none of them is here.
"""


class Imports(ast.NodeVisitor):
    """Collects the packages that some code imports when it runs; imports for the type checker alone are none.

    Args:
        in_functions: also what functions import when they are called.
    """

    def __init__(self, *, in_functions: bool) -> None:
        self._in_functions = in_functions
        self.packages: set[str] = set()

    def visit_Import(self, node: ast.Import) -> None:  # ast's name
        self.packages |= {name.name.partition(".")[0] for name in node.names}

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.module and not node.level:
            self.packages.add(node.module.partition(".")[0])

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) != "TYPE_CHECKING":
            self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if self._in_functions:
            self.generic_visit(node)


def libraries(*, in_functions: bool) -> dict[str, set[str]]:
    """File of ``device/`` -> the libraries beyond the base install that it imports."""
    found = {}
    for path in sorted(DEVICE.rglob("*.py")):
        imports = Imports(in_functions=in_functions)
        imports.visit(ast.parse(path.read_text()))
        if beyond := imports.packages - BASE - set(sys.stdlib_module_names):
            found[path.relative_to(DEVICE).as_posix()] = beyond
    return found


def test_a_library_is_imported_at_module_level_by_the_file_that_wraps_it_alone() -> None:
    assert libraries(in_functions=False) == WRAPPERS


def test_no_library_is_imported_by_two_files() -> None:
    homes: dict[str, list[str]] = {}
    for name, names in libraries(in_functions=True).items():
        for library in names:
            homes.setdefault(library, []).append(name)
    assert {"cv2", "picamera2", "libcamera"} <= homes.keys()
    assert {library: files for library, files in homes.items() if len(files) > 1} == {}
