-- L1, self-adversarial negatives, known answers left out.
SET VARIABLE path = '../shared/data/kg/wn18rr.parquet';

CREATE OR REPLACE MODEL m
  TYPE transe
  OPTIONS (dim = 400, epochs = 30, negatives = 200, margin = 9, patience = 0)
  AS FROM read_parquet(getvariable('path'));
