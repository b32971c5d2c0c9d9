-- Climate of North America with cells missing at random, recovered from earlier, later and simultaneous cells.
-- hidden = 0.3 hides 30 % of the readings from the model: half of them for early stopping, half for testing.
SET VARIABLE path = '../shared/data/series/climate';

CREATE OR REPLACE MODEL m
  TYPE net3
  OPTIONS (task = 'recover', modes = ['site', 'variable'], freq = INTERVAL 1 MONTH, hidden = 0.3, window = 1,
           graphs = {'variable': 'pearson'}, epochs = 12, patience = 2, device = 'cpu', threads = 1)
  AS (series AS (SELECT ts, site, variable, value FROM read_parquet(getvariable('path') || '/readings.parquet')),
      site   AS (FROM read_parquet(getvariable('path') || '/site_graph.parquet')));
