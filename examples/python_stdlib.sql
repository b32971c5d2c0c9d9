-- What does a model know about Python's standard library after learning nine tenths of it?
--
--   python examples/python_stdlib.py build/stdlib.parquet
--   graphlearn run examples/python_stdlib.sql --workspace build/stdlib.duckdb

SET VARIABLE path = 'build/stdlib.parquet';

-- About one fact in twenty is held out for testing, and as many for validation.
CREATE OR REPLACE TABLE facts AS
SELECT head, relation, tail,
       CASE md5_number_lower(concat_ws(' ', head, relation, tail)) % 20
         WHEN 0 THEN 'test' WHEN 1 THEN 'valid' ELSE 'train' END AS split
FROM read_parquet(getvariable('path'));

CREATE OR REPLACE MODEL stdlib
  TYPE complex
  OPTIONS (dim = 200, epochs = 30, reciprocal = true, regularization = 0.1)
  AS FROM facts;

-- How high does it rank the held-out facts among all entities?
SELECT method, split, side, count, round(mrr, 3) AS mrr, round(hits_at_1, 3) AS "hits@1", round(hits_at_3, 3) AS "hits@3",
       round(hits_at_10, 3) AS "hits@10"
FROM evaluate('stdlib')
WHERE relation IS NULL
ORDER BY split DESC, method, side;

-- Which relations does it predict best?
SELECT relation, count, round(mrr, 3) AS mrr, round(hits_at_10, 3) AS "hits@10"
FROM evaluate('stdlib')
WHERE method = 'complex' AND relation IS NOT NULL AND split = 'test' AND side = 'tail'
ORDER BY mrr DESC;

-- Questions (head, relation, ?) and the first three answers that are not in the training data.
-- + marks a held-out fact, ? an answer that is not in the graph.
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
  WHERE tail <> head
  QUALIFY row_number() OVER (PARTITION BY nr ORDER BY rank) <= 3
)
SELECT head, relation,
       string_agg(CASE WHEN split IS NULL THEN '? ' ELSE '+ ' END || tail, '   ' ORDER BY rank) AS answers
FROM answers
GROUP BY nr, head, relation
ORDER BY nr;

-- What is most similar to a given entity?
SELECT neighbour, round(score, 3) AS cosine FROM similar('stdlib', 'collections.OrderedDict', k := 6);
