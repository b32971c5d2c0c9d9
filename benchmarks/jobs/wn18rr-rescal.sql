-- Sampled softmax over 1,000 shared negatives, reciprocal relations, N3.
SET VARIABLE path = '../shared/data/kg/wn18rr.parquet';

CREATE OR REPLACE MODEL m
  TYPE rescal
  OPTIONS (dim = 128, epochs = 20, negatives = 1000, regularization = 0.05, patience = 0)
  AS FROM read_parquet(getvariable('path'));
