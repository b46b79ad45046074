"""Frame sources: where pictures come from. `registry` lists them, `uri.open_source` turns a URI into one."""
