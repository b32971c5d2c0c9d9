-- Los-loop: the speed of traffic at 207 sensors on the highways of Los Angeles, every five minutes of a week in March 2012.
--
--   graphlearn run examples/los_loop.sql --workspace build/los_loop.duckdb --set path=/where/it/is/los_loop
--
-- The folder has speed.parquet (ts, sensor, speed in miles per hour) and road.parquet (source, target, weight).

SET VARIABLE path = '../shared/data/series/los_loop';

-- The next hour, in twelve steps, from the last one; the time of day is known (calendar = true is the default).
CREATE OR REPLACE MODEL los_loop
  TYPE net3
  OPTIONS (modes = ['sensor'], freq = INTERVAL 5 MINUTE, window = 12, horizon = 12, calendar = true, epochs = 10)
  AS (series AS (SELECT ts, sensor, speed FROM read_parquet(getvariable('path') || '/speed.parquet')),
      sensor AS (SELECT source, target, weight FROM read_parquet(getvariable('path') || '/road.parquet')));

-- How far off, in miles per hour, after a quarter of an hour, half an hour, an hour, and over all steps?
PIVOT (SELECT method, coalesce(step * 5 || ' min', 'all') AS ahead, round(rmse, 2) AS rmse
       FROM evaluate('los_loop') WHERE split = 'test' AND (step IS NULL OR step IN (3, 6, 12)))
ON ahead IN ('15 min', '30 min', '60 min', 'all') USING first(rmse)
ORDER BY "all";

-- The first hour that nobody has seen, at the sensor where the interval is widest
SELECT ts, sensor, round(speed, 1) AS speed, round(lower, 1) AS lower, round(upper, 1) AS upper, step
FROM forecast('los_loop')
QUALIFY sensor = first_value(sensor) OVER (ORDER BY upper - lower DESC, sensor)
ORDER BY step;

-- A forecast made in the middle of a rush hour, beside what came: `at` is the last time that the model may see.
SELECT ts, round(avg(abs(f.speed - r.speed)), 2) AS mean_error,
       round(avg(CAST(r.speed BETWEEN lower AND upper AS INTEGER)), 2) AS inside_the_interval
FROM forecast('los_loop', at := TIMESTAMP '2012-03-07 17:00:00') f
JOIN read_parquet(getvariable('path') || '/speed.parquet') r USING (ts, sensor)
GROUP BY ts
ORDER BY ts;
