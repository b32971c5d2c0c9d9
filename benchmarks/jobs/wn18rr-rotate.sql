-- Self-adversarial negatives.
SET VARIABLE path = '../shared/data/kg/wn18rr.parquet';

CREATE OR REPLACE MODEL m
  TYPE rotate
  OPTIONS (dim = 1000, epochs = 40, negatives = 200, margin = 6, adversarial_temperature = 0.5, filter_negatives = false, patience = 0)
  AS FROM read_parquet(getvariable('path'));
