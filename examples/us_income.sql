-- What will people earn? Income per head of the 48 contiguous states of the US, year by year from 1929 to 2009.
--
--   python examples/us_income.py build/us_income
--   graphlearn run examples/us_income.sql --workspace build/us_income.duckdb

SET VARIABLE path = 'build/us_income';

CREATE OR REPLACE TABLE income AS FROM read_parquet(getvariable('path') || '/income.parquet');

-- Dollars grow a hundredfold over these years; what is to be foretold is how much, in percent a year, since the war.
CREATE OR REPLACE TABLE growth AS
SELECT year, state, 100 * (ln(income) - ln(lag(income) OVER (PARTITION BY state ORDER BY year))) AS percent
FROM income WHERE year >= 1948 QUALIFY percent IS NOT NULL;

-- Sixty years are little to learn from: linear_skip and head have one set of weights for all states.
CREATE OR REPLACE MODEL us_income
  TYPE net3
  OPTIONS (time = 'year', window = 4, horizon = 3, split = [0.7, 0.15, 0.15], linear_skip = 'shared', head = 'shared',
           learning_rate = 0.01, epochs = 80, patience = 15)
  AS (series AS (SELECT year, state, percent FROM growth),
      state  AS (SELECT source, target FROM read_parquet(getvariable('path') || '/borders.parquet')));

-- By how many percentage points is it off, and by how many are methods that need no network?
SELECT method, round(rmse, 2) AS rmse, round(mae, 2) AS mae, round(z_rmse, 3) AS z_rmse, cells
FROM evaluate('us_income') WHERE split = 'test' AND step IS NULL ORDER BY z_rmse;

-- The three years after the data, in dollars again, with the interval that held nine of ten on the validation part
WITH last AS (SELECT state, income FROM income WHERE year = 2009)
SELECT state, year, round(percent, 1) AS growth,
       round(lower, 1) AS "from", round(upper, 1) AS "to",
       round(income * exp(sum(percent) OVER years / 100))::INTEGER AS dollars
FROM forecast('us_income') JOIN last USING (state)
WHERE state IN ('California', 'Iowa')
WINDOW years AS (PARTITION BY state ORDER BY year)
ORDER BY state, year;
