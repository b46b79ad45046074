"""The report: what runs and benchmarks gave, from their own records. ``python -m device.report``.

`summary` sums runs up from their telemetry, `subjects` sets runs and benchmarks side by side, and `table` lists the figures for
programs. For people, `time_series` and `bars` draw, and `page` writes the page. The kit that other reports use too: `drawing`
knows matplotlib, `document` and the templates know HTML.
"""
