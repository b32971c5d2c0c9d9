-- Chickenpox cases in the counties of Hungary, one week ahead from four, on the unscaled values.
-- The number of epochs is found with split = [0.7, 0.1, 0.2] and then used with all of the first 80 %.
SET VARIABLE path = '../shared/data/series/chickenpox';

CREATE OR REPLACE MODEL m
  TYPE net3
  OPTIONS (modes = ['place'], freq = INTERVAL 7 DAY, split = [0.7, 0.1, 0.2], window = 4, horizon = 1,
           epochs = 50, patience = 5, device = 'cpu', threads = 1)
  AS (series AS (SELECT ts, place, value FROM read_parquet(getvariable('path') || '/readings.parquet')),
      place  AS (FROM read_parquet(getvariable('path') || '/graph.parquet')));
