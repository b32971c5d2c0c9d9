-- Self-adversarial negatives, known answers excluded.
SET VARIABLE path = '../shared/data/kg/fb15k-237.parquet';

CREATE OR REPLACE MODEL m
  TYPE rotate
  OPTIONS (dim = 1000, epochs = 18, negatives = 200, patience = 0)
  AS FROM read_parquet(getvariable('path'));
