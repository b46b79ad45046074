"""``python -m device.bench``: how fast the bundle's networks run on this machine, and how much energy an inference takes.

`plan` defines what is measured and for how long; `window` measures a series of inferences, `rounds` the windows of one process;
`conditions` monitors the machine meanwhile; `figures` summarises; `result` is the schema of the result.
"""
