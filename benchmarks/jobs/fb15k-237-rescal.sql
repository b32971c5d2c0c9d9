-- Sampled softmax over 1,000 shared negatives, reciprocal relations, DURA.
SET VARIABLE path = '../shared/data/kg/fb15k-237.parquet';

CREATE OR REPLACE MODEL m
  TYPE rescal
  OPTIONS (dim = 256, epochs = 26, negatives = 1000, regularizer = 'dura', regularization = 0.05, evaluate_every = 4,
           patience = 0)
  AS FROM read_parquet(getvariable('path'));
