-- 1-vs-all softmax, reciprocal relations, N3.
SET VARIABLE path = '../shared/data/kg/kinships.parquet';

CREATE OR REPLACE MODEL m
  TYPE complex
  OPTIONS (dim = 200, epochs = 60, negatives = 0, regularization = 0.01, batch_size = 200, patience = 0)
  AS FROM read_parquet(getvariable('path'));
