"""The report: what runs and benchmarks gave, from their own records. ``python -m device.report``.

`read` asks the telemetry stores, `summary` makes figures of what they say, and `table` lists those for programs. For people,
`course` draws a run over time and `bars` figures side by side (`plots` is what both share), and `page` writes around them.
"""
