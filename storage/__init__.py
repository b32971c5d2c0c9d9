"""Storage: ingest from DuckDB and Arrow, dictionary encoding, snapshots, artifacts, run folders."""
