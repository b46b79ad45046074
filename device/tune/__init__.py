"""``python -m device.tune``: finds the best operating point for an aim by measuring, and writes it as a profile.

`aims` scores points, `space` lists the possible ones, `search` decides which is measured next and when to stop, `governor` sets
and restores the processor's frequency governor, and `profile_text` writes the profile.
"""
