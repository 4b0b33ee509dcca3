"""Studies: many cases by several methods, resumable, on one machine or a cluster, with a page of results."""
