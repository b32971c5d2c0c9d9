-- Traffic speed in Los Angeles, five minutes ahead from the last hour. The seasonal tables have full rank.
SET VARIABLE path = '../shared/data/series/los_loop';

CREATE OR REPLACE MODEL m
  TYPE net3
  OPTIONS (modes = ['sensor'], freq = INTERVAL 5 MINUTE, split = [0.8, 0.1, 0.1], window = 12, horizon = 1,
           season_rank = 0, epochs = 8, patience = 3, device = 'cpu', threads = 1)
  AS (series AS (SELECT ts, sensor, speed FROM read_parquet(getvariable('path') || '/speed.parquet')),
      sensor AS (FROM read_parquet(getvariable('path') || '/road.parquet')));
