-- Taxi trips between 30 zones of New York, one hour ahead. Zones are neighbours if their trips correlate.
SET VARIABLE path = '../shared/data/series/nyc_taxi';

CREATE OR REPLACE MODEL m
  TYPE net3
  OPTIONS (modes = ['origin', 'destination'], freq = INTERVAL 1 HOUR, split = [0.8, 0.1, 0.1], window = 5, horizon = 1,
           graphs = {'origin': 'pearson', 'destination': 'pearson'}, epochs = 12, patience = 3, device = 'cpu', threads = 1)
  AS (series AS (SELECT ts, origin, destination, trips FROM read_parquet(getvariable('path') || '/trips.parquet')));
