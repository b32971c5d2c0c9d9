-- Climate of North America, one month ahead. Sites have a graph of neighbours, variables a graph of correlations.
SET VARIABLE path = '../shared/data/series/climate';

CREATE OR REPLACE MODEL m
  TYPE net3
  OPTIONS (modes = ['site', 'variable'], freq = INTERVAL 1 MONTH, split = [0.8, 0.1, 0.1], window = 5, horizon = 1,
           graphs = {'variable': 'pearson'}, epochs = 20, patience = 3, device = 'cpu', threads = 1)
  AS (series AS (SELECT ts, site, variable, value FROM read_parquet(getvariable('path') || '/readings.parquet')),
      site   AS (FROM read_parquet(getvariable('path') || '/site_graph.parquet')));
