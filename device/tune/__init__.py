"""``python -m device.tune``: finds the operating point for an aim by measuring, and writes it as a profile.

`aims` says what is better, `space` what there is to choose from, `search` which point is measured next and when that is enough,
`governor` sets the processor's governor and puts it back, `profile_text` writes the profile.
"""
