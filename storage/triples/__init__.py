"""Triples: ingest, report, splits, snapshot."""
