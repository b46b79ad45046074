"""Frame sources: where pictures come from. `open_source` turns a URI into one; the registry knows which there are."""

from device.sources.base import SourceOptions
from device.sources.uri import make_opener, names_camera, open_source

__all__ = ["SourceOptions", "make_opener", "names_camera", "open_source"]
