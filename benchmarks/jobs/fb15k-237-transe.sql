-- L1, self-adversarial negatives, known answers excluded.
SET VARIABLE path = '../shared/data/kg/fb15k-237.parquet';

CREATE OR REPLACE MODEL m
  TYPE transe
  OPTIONS (dim = 400, epochs = 14, negatives = 200, patience = 0)
  AS FROM read_parquet(getvariable('path'));
