-- Sampled softmax over 1,000 shared negatives, reciprocal relations, N3 on entities and matrices.
SET VARIABLE path = '../shared/data/kg/fb15k-237.parquet';

CREATE OR REPLACE MODEL m
  TYPE rescal
  OPTIONS (dim = 128, epochs = 10, negatives = 1000, regularization = 0.02, patience = 0)
  AS FROM read_parquet(getvariable('path'));
