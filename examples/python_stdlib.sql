-- What does a model know about Python's standard library when it has read nine tenths of it?
--
--   python examples/python_stdlib.py build/stdlib.parquet
--   graphlearn run examples/python_stdlib.sql --workspace build/stdlib.duckdb

SET VARIABLE path = 'build/stdlib.parquet';

-- Every twentieth fact is kept for the test and another for validation: the model never learns from those.
CREATE OR REPLACE TABLE facts AS
SELECT head, relation, tail,
       CASE md5_number_lower(concat_ws(' ', head, relation, tail)) % 20
         WHEN 0 THEN 'test' WHEN 1 THEN 'valid' ELSE 'train' END AS split
FROM read_parquet(getvariable('path'));

CREATE OR REPLACE MODEL stdlib
  TYPE complex
  OPTIONS (dim = 200, epochs = 30, reciprocal = true, regularization = 0.1)
  AS FROM facts;

-- How high does it rank the facts it has not seen, among all entities?
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

-- Questions (head, relation, ?) and the first answers that are not among the facts it has learnt.
-- + is a fact that was kept from it; ? is no fact of this graph: judge for yourself whether it could be one.
CREATE OR REPLACE TABLE questions AS
FROM (VALUES
  (1, 'json.decoder', 'imports'),
  (2, 'urllib.request', 'imports'),
  (3, 'json.loads', 'has_parameter'),
  (4, 'os.walk', 'has_parameter'),
  (5, 'pathlib.Path.read_text', 'has_parameter'),
  (6, 'heapq.nlargest', 'catches'),
  (7, 'urllib.error.HTTPError.headers', 'decorated_by'),
  (8, 'subprocess.run', 'raises')
) AS questions(nr, head, relation);

WITH answers AS (
  FROM predict('stdlib', questions, k := 30)
  LEFT JOIN facts USING (head, relation, tail)
  WHERE split IS DISTINCT FROM 'train' AND tail <> head
  QUALIFY row_number() OVER (PARTITION BY nr ORDER BY rank) <= 3
)
SELECT head, relation,
       string_agg(CASE WHEN split IS NULL THEN '? ' ELSE '+ ' END || tail, '   ' ORDER BY rank) AS answers
FROM answers
GROUP BY nr, head, relation
ORDER BY nr;

-- What is most like a given thing?
SELECT neighbour, round(score, 3) AS cosine FROM similar('stdlib', 'collections.OrderedDict', k := 6);
