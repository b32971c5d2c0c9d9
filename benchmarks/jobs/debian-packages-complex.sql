-- Sampled softmax over 500 shared negatives, reciprocal relations, N3.
SET VARIABLE path = '../shared/data/kg/debian-packages.parquet';

CREATE OR REPLACE MODEL m
  TYPE complex
  OPTIONS (dim = 200, epochs = 10, negatives = 500, regularization = 0.01, patience = 0)
  AS FROM read_parquet(getvariable('path'));
