"""The doctor: what of this machine works, what doesn't, and what to do. ``python -m device.doctor``.

`check` has what a check is and how checks are run; each ``checks_*`` module looks at one part of the machine; `table` prints.
"""
