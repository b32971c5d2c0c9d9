"""Time series: ingest into a dense tensor on a regular time axis, mode graphs, report."""
