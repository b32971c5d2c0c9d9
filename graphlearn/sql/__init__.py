"""The job language: DuckDB's SQL plus our statements and table functions, with errors placed in the user's file."""
