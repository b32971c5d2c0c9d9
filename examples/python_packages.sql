-- Which package does a function belong to? Python's standard library as a graph of functions, classes and parameters.
--
--   python examples/python_stdlib.py build/stdlib.parquet
--   graphlearn run examples/python_packages.sql --workspace build/packages.duckdb
--
-- The model sees the words in a function's name, its parameters, and what it calls, raises and instantiates, but not where
-- it is defined. It predicts the package.

SET VARIABLE path = 'build/stdlib.parquet';

CREATE OR REPLACE TABLE facts AS FROM read_parquet(getvariable('path'));

-- parseHeaders, parse_headers -> [parse, headers]
CREATE OR REPLACE MACRO words(path) AS list_filter(
  string_split(lower(regexp_replace(string_split(path, '.')[-1], '([a-z0-9])([A-Z])', '\1_\2', 'g')), '_'), lambda w: w <> '');

CREATE OR REPLACE TABLE class AS
SELECT DISTINCT tail AS class, words(tail) AS words FROM facts WHERE relation = 'defines_class';

-- The classes are the twelve packages with the most functions; functions of other packages have no label.
CREATE OR REPLACE TABLE function AS
WITH all_functions AS (
  SELECT DISTINCT tail AS function, string_split(tail, '.')[1] AS package
  FROM facts WHERE relation IN ('defines_function', 'has_method')
),
large AS (SELECT package FROM all_functions GROUP BY package ORDER BY count(*) DESC, package LIMIT 12)
SELECT function, words(function) AS words, large.package FROM all_functions LEFT JOIN large USING (package);

CREATE OR REPLACE MODEL package
  TYPE dhan
  OPTIONS (target = 'package', hidden = 32, epochs = 40, evaluate_every = 2)
  AS (function    AS (SELECT function AS id, words, package FROM function),
      class       AS (SELECT class AS id, words FROM class),
      calls       AS (SELECT head AS source, tail AS target FROM facts
                      WHERE relation = 'calls' AND head IN (SELECT function FROM function)
                                               AND tail IN (SELECT function FROM function)),
      uses        AS (SELECT head AS function, tail AS class, relation FROM facts
                      WHERE relation IN ('raises', 'instantiates') AND head IN (SELECT function FROM function)
                                                                   AND tail IN (SELECT class FROM class)),
      parameter   AS (SELECT head AS source, tail AS hub FROM facts
                      WHERE relation = 'has_parameter' AND head IN (SELECT function FROM function)),
      inherits    AS (SELECT head AS source, tail AS target FROM facts
                      WHERE relation = 'inherits' AND head IN (SELECT class FROM class)
                                                  AND tail IN (SELECT class FROM class)));

-- How accurate is it, compared with a model that sees only the name (the MLP)?
SELECT method, round(macro_f1, 3) AS macro_f1, round(accuracy, 3) AS accuracy, count
FROM evaluate('package') WHERE split = 'test' ORDER BY macro_f1 DESC;

-- The most confident wrong predictions: functions that look as if they belonged to another package
SELECT id AS function, label AS "looks like", round(probability, 2) AS probability
FROM predict('package') JOIN function ON id = function
WHERE label <> package ORDER BY predict.probability DESC LIMIT 8;

-- Functions of other packages: which of the twelve are they most like?
SELECT id AS function, label AS "looks like", round(probability, 2) AS probability
FROM predict('package', (SELECT unnest(['shlex.split', 'socket.create_connection', 'textwrap.dedent',
                                        'smtplib.SMTP.sendmail', 'sqlite3.dump._iterdump']) AS id))
ORDER BY predict.probability DESC;

-- Which relations and neighbours counted most in one prediction? For calls, side = 'source' means functions that call this
-- one, and 'target' functions that it calls.
SELECT kind, relation, side, neighbour, round(weight, 3) AS weight
FROM explain('package', (SELECT 'email.message.Message.get_payload' AS id), k := 3)
WHERE weight > 0 ORDER BY kind DESC, relation, side, explain.weight DESC;
