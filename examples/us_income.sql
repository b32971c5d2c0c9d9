-- Income per capita of the 48 contiguous US states, yearly from 1929 to 2009.
--
--   python examples/us_income.py build/us_income
--   graphlearn run examples/us_income.sql --workspace build/us_income.duckdb

SET VARIABLE path = 'build/us_income';

CREATE OR REPLACE TABLE income AS FROM read_parquet(getvariable('path') || '/income.parquet');

-- Incomes grow a hundredfold over these years, so the model forecasts their growth in percent per year, from 1949 on.
CREATE OR REPLACE TABLE growth AS
SELECT year, state, 100 * (ln(income) - ln(lag(income) OVER (PARTITION BY state ORDER BY year))) AS percent
FROM income WHERE year >= 1948 QUALIFY percent IS NOT NULL;

-- Sixty years are little data, so all states share one set of weights.
CREATE OR REPLACE MODEL us_income
  TYPE net3
  OPTIONS (time = 'year', window = 4, horizon = 3, split = [0.7, 0.15, 0.15], linear_skip = 'shared', head = 'shared',
           learning_rate = 0.01, epochs = 80, patience = 15)
  AS (series AS (SELECT year, state, percent FROM growth),
      state  AS (SELECT source, target FROM read_parquet(getvariable('path') || '/borders.parquet')));

-- How large are its errors in percentage points, compared with methods that need no network?
SELECT method, round(rmse, 2) AS rmse, round(mae, 2) AS mae, round(z_rmse, 3) AS z_rmse, cells
FROM evaluate('us_income') WHERE split = 'test' AND step IS NULL ORDER BY z_rmse;

-- Forecast the three years after the data, converted to dollars, with 90 % prediction intervals
WITH last AS (SELECT state, income FROM income WHERE year = 2009)
SELECT state, year, round(percent, 1) AS growth,
       round(lower, 1) AS "from", round(upper, 1) AS "to",
       round(income * exp(sum(percent) OVER years / 100))::INTEGER AS dollars
FROM forecast('us_income') JOIN last USING (state)
WHERE state IN ('California', 'Iowa')
WINDOW years AS (PARTITION BY state ORDER BY year)
ORDER BY state, year;
