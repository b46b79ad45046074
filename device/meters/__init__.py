"""Power meters. `registry` lists them, `select.open_meters` opens what a profile names, `sampler.PowerSampler` reads them."""
