"""``python -m device.bench``: how fast the bundle's networks run on this machine, and what an inference costs.

`plan` says what is measured and for how long, `window` measures a stretch of inferences, `rounds` one process's worth of them,
`conditions` watches what else went on, `figures` sums up, and `result` is what is kept.
"""
