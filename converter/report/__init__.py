"""The report of a conversion: `record` is its data, `page` and `plots` show it to people."""
