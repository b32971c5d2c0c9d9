-- Climate of North America: 16 variables at 125 sites, monthly from 1990 to 2002.
--
--   graphlearn run examples/climate.sql --workspace build/climate.duckdb --set path=/path/to/climate
--
-- The folder contains readings.parquet (ts, site, variable, value) and site_graph.parquet (source, target, weight).

SET VARIABLE path = '../shared/data/series/climate';

CREATE OR REPLACE TABLE readings AS FROM read_parquet(getvariable('path') || '/readings.parquet');
CREATE OR REPLACE TABLE site_graph AS FROM read_parquet(getvariable('path') || '/site_graph.parquet');

-- Forecast the next month of every variable at every site. Sites have a graph of neighbours; the graph of the variables is
-- derived from their correlations in the training set.
CREATE OR REPLACE MODEL climate
  TYPE net3
  OPTIONS (modes = ['site', 'variable'], freq = INTERVAL 1 MONTH, graphs = {'variable': 'pearson'}, epochs = 15)
  AS (series AS (SELECT ts, site, variable, value FROM readings),
      site   AS (SELECT source, target, weight FROM site_graph));

-- How large are its errors, compared with methods that need no network? z_… is in standard deviations of each series.
SELECT method, split, round(z_rmse, 3) AS z_rmse, round(z_mae, 3) AS z_mae, cells
FROM evaluate('climate')
WHERE step IS NULL
ORDER BY split, z_rmse;

-- Forecast the temperature at one site (in tenths of a degree) for three months. The model was trained on one month ahead.
SELECT ts, variable, round(value) AS value, round(lower) AS lower, round(upper) AS upper
FROM forecast('climate', horizon := 3, level := 0.8)
WHERE site = '40.48,-89.75' AND variable IN ('TMN', 'TMP', 'TMX')
ORDER BY variable, ts;

-- Remove three readings in ten and recover them.
CREATE OR REPLACE TABLE gappy AS
SELECT ts, site, variable, CASE WHEN hash(ts, site, variable) % 10 < 3 THEN NULL ELSE value END AS value FROM readings;

CREATE OR REPLACE MODEL climate_filled
  TYPE net3
  OPTIONS (task = 'recover', modes = ['site', 'variable'], freq = INTERVAL 1 MONTH, graphs = {'variable': 'pearson'}, epochs = 8)
  AS (series AS (SELECT ts, site, variable, value FROM gappy),
      site   AS (SELECT source, target, weight FROM site_graph));

SELECT method, split, round(z_rmse, 3) AS z_rmse, round(z_mae, 3) AS z_mae, cells
FROM evaluate('climate_filled')
ORDER BY split, z_rmse;

-- Compare the recovered values with the removed readings: how many of these lie within the 90 % interval?
SELECT variable, count(*) AS lost, round(avg(abs(f.value - r.value)), 1) AS mean_error, round(stddev(r.value), 1) AS spread,
       round(avg(CAST(r.value BETWEEN lower AND upper AS INTEGER)), 2) AS inside
FROM recover('climate_filled') f JOIN readings r USING (ts, site, variable)
GROUP BY variable
ORDER BY mean_error / spread;
