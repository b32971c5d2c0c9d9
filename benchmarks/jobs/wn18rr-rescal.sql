-- Sampled softmax over 1,000 shared negatives, reciprocal relations, DURA.
SET VARIABLE path = '../shared/data/kg/wn18rr.parquet';

CREATE OR REPLACE MODEL m
  TYPE rescal
  OPTIONS (dim = 256, epochs = 60, negatives = 1000, regularizer = 'dura', regularization = 0.1, learning_rate = 0.1,
           evaluate_every = 10, patience = 0)
  AS FROM read_parquet(getvariable('path'));
