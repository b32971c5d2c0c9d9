-- What does Python's standard library look like to a model that has read all of it?
--
--   python examples/python_stdlib.py build/stdlib.parquet
--   graphlearn run examples/python_stdlib.sql --workspace build/stdlib.duckdb

SET VARIABLE path = 'build/stdlib.parquet';

CREATE OR REPLACE MODEL stdlib
  TYPE complex
  OPTIONS (dim = 200, epochs = 30)
  AS SELECT head, relation, tail FROM read_parquet(getvariable('path'));

-- How good is it? 5 % of the facts were held out for the test: how high does it rank them among all entities?
SELECT split, side, count, round(mrr, 3) AS mrr, round(hits_at_1, 3) AS "hits@1", round(hits_at_3, 3) AS "hits@3",
       round(hits_at_10, 3) AS "hits@10"
FROM evaluate('stdlib')
WHERE relation IS NULL
ORDER BY split DESC, side;

-- Which kinds of facts does it foresee?
SELECT relation, count, round(mrr, 3) AS mrr, round(hits_at_10, 3) AS "hits@10"
FROM evaluate('stdlib')
WHERE relation IS NOT NULL AND split = 'test' AND side = 'tail'
ORDER BY mrr DESC;

-- Questions of the form (head, relation, ?). In brackets: no fact of the graph, so a guess to judge by reading.
CREATE OR REPLACE TABLE questions AS
FROM (VALUES
  (1, 'json.decoder', 'imports'),
  (2, 'urllib.request', 'imports'),
  (3, 'subprocess.run', 'raises'),
  (4, 'shutil.copytree', 'calls'),
  (5, 'http.client.HTTPException', 'inherits'),
  (6, 'zipfile.ZipFile', 'implements'),
  (7, 'socket.create_connection', 'has_parameter')
) AS questions(nr, head, relation);

SELECT head, relation, string_agg(CASE WHEN known THEN tail ELSE '[' || tail || ']' END, ', ' ORDER BY rank) AS answers
FROM predict('stdlib', questions, k := 6)
GROUP BY nr, head, relation
ORDER BY nr;

-- What is most like a given thing?
SELECT neighbour, round(score, 3) AS cosine FROM similar('stdlib', 'collections.OrderedDict', k := 6);
