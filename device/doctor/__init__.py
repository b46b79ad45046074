"""The doctor, ``python -m device.doctor``: what works on this machine, what doesn't, and how to fix it.

`check` runs the checks; each ``checks_*`` module looks at one part of the machine; `plugins` lists plug-ins; `table` formats.
"""
