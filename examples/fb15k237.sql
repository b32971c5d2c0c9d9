-- FB15k-237: facts from Freebase about people, films, places and more, without inverse relations.
--
--   graphlearn run examples/fb15k237.sql --workspace build/fb15k237.duckdb --set path=/path/to/fb15k-237.parquet
--
-- The file has columns head, relation, tail and split (train, valid, test).

SET VARIABLE path = '../shared/data/kg/fb15k-237.parquet';

CREATE OR REPLACE MODEL fb15k237
  TYPE complex
  OPTIONS (dim = 400, epochs = 20, negatives = 1000, regularization = 0.05)
  AS SELECT head, relation, tail, split FROM read_parquet(getvariable('path'));

SELECT method, split, side, count, round(mrr, 4) AS mrr, round(hits_at_1, 4) AS "hits@1", round(hits_at_3, 4) AS "hits@3",
       round(hits_at_10, 4) AS "hits@10", protocol
FROM evaluate('fb15k237')
WHERE relation IS NULL
ORDER BY split DESC, method, side;
