"""The job language: DuckDB's SQL plus our statements, carets in the user's file, table functions over models."""
