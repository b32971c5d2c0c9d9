-- Los-loop: traffic speed at 207 sensors on the highways of Los Angeles, every five minutes for a week in March 2012.
--
--   graphlearn run examples/los_loop.sql --workspace build/los_loop.duckdb --set path=/path/to/los_loop
--
-- The folder contains speed.parquet (ts, sensor, speed in miles per hour) and road.parquet (source, target, weight).

SET VARIABLE path = '../shared/data/series/los_loop';

-- Forecast the next hour, in twelve steps, from the last hour and the time of day (calendar = true, the default).
CREATE OR REPLACE MODEL los_loop
  TYPE net3
  OPTIONS (modes = ['sensor'], freq = INTERVAL 5 MINUTE, window = 12, horizon = 12, calendar = true, epochs = 10)
  AS (series AS (SELECT ts, sensor, speed FROM read_parquet(getvariable('path') || '/speed.parquet')),
      sensor AS (SELECT source, target, weight FROM read_parquet(getvariable('path') || '/road.parquet')));

-- The error in miles per hour after 15, 30 and 60 minutes, and over all steps
PIVOT (SELECT method, coalesce(step * 5 || ' min', 'all') AS ahead, round(rmse, 2) AS rmse
       FROM evaluate('los_loop') WHERE split = 'test' AND (step IS NULL OR step IN (3, 6, 12)))
ON ahead IN ('15 min', '30 min', '60 min', 'all') USING first(rmse)
ORDER BY "all";

-- The hour after the data, at the sensor with the widest interval
SELECT ts, sensor, round(speed, 1) AS speed, round(lower, 1) AS lower, round(upper, 1) AS upper, step
FROM forecast('los_loop')
QUALIFY sensor = first_value(sensor) OVER (ORDER BY upper - lower DESC, sensor)
ORDER BY step;

-- A forecast made during rush hour, compared with the readings. `at` is the last time that the model may see.
SELECT ts, round(avg(abs(f.speed - r.speed)), 2) AS mean_error,
       round(avg(CAST(r.speed BETWEEN lower AND upper AS INTEGER)), 2) AS inside_the_interval
FROM forecast('los_loop', at := TIMESTAMP '2012-03-07 17:00:00') f
JOIN read_parquet(getvariable('path') || '/speed.parquet') r USING (ts, sensor)
GROUP BY ts
ORDER BY ts;
