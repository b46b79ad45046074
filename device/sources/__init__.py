"""Frame sources: cameras, streams and files. `registry` lists the kinds, `uri.open_source` opens one by its URI."""
