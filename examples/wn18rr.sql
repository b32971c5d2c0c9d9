-- WN18RR: relations between words in WordNet, without inverse relations.
--
--   graphlearn run examples/wn18rr.sql --workspace build/wn18rr.duckdb --set path=/path/to/wn18rr.parquet
--
-- The file has columns head, relation, tail and split (train, valid, test).

SET VARIABLE path = '../shared/data/kg/wn18rr.parquet';

CREATE OR REPLACE MODEL wn18rr
  TYPE complex
  OPTIONS (dim = 800, epochs = 20, negatives = 1000, regularization = 0.1)
  AS SELECT head, relation, tail, split FROM read_parquet(getvariable('path'));

SELECT method, split, side, count, round(mrr, 4) AS mrr, round(hits_at_1, 4) AS "hits@1", round(hits_at_3, 4) AS "hits@3",
       round(hits_at_10, 4) AS "hits@10", protocol
FROM evaluate('wn18rr')
WHERE relation IS NULL
ORDER BY split DESC, method, side;
