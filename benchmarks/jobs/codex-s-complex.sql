-- 1-vs-all softmax, reciprocal relations, N3.
SET VARIABLE path = '../shared/data/kg/codex-s.parquet';

CREATE OR REPLACE MODEL m
  TYPE complex
  OPTIONS (dim = 600, epochs = 20, negatives = 0, regularization = 0.008, batch_size = 500, patience = 0)
  AS FROM read_parquet(getvariable('path'));
