"""The report of a conversion: as data, and as a page."""
