"""Where data lives: DuckDB and Arrow ingest, dictionary encoding, snapshots, artifacts, run folders."""
