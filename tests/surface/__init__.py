"""What users touch, as it was when it was last meant to change.

Modules may move and be renamed inside; what is written in ``golden/`` must not change by that. What these tests import from
the project stands in `collect_device` and `collect_converter` alone, and which module runs a command in `commands.COMMANDS`.

``pytest tests/surface --update-golden`` writes ``golden/`` anew, but for the artefacts' hashes, which need a conversion:
``pytest tests/convert/test_conversion.py -k as_ever --update-golden``.
"""
