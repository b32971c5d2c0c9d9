-- Papers, authors and subjects in the ACM digital library: which of three areas does a paper belong to?
--
--   graphlearn run examples/acm.sql --workspace build/acm.duckdb --set path=/path/to/acm
--
-- The folder contains paper.parquet (paper, subject_area, words INTEGER[], split_20), author.parquet (author,
-- words INTEGER[]), writes.parquet (paper, author) and about.parquet (paper, subject). 60 papers are labelled for training.

SET VARIABLE path = '../shared/data/hetero/acm';

CREATE OR REPLACE TABLE paper AS FROM read_parquet(getvariable('path') || '/paper.parquet');
CREATE OR REPLACE TABLE author AS FROM read_parquet(getvariable('path') || '/author.parquet');
CREATE OR REPLACE TABLE writes AS FROM read_parquet(getvariable('path') || '/writes.parquet');
CREATE OR REPLACE TABLE about AS FROM read_parquet(getvariable('path') || '/about.parquet');

-- Papers with the same subject are neighbours through a hub, the subject, which avoids 4.3 million edges between papers.
CREATE OR REPLACE MODEL acm
  TYPE dhan
  OPTIONS (target = 'subject_area')
  AS (paper   AS (SELECT paper AS id, words, subject_area, split_20 AS split FROM paper),
      author  AS (SELECT author AS id, words FROM author),
      writes  AS (SELECT author AS source, paper AS target FROM writes),
      subject AS (SELECT paper AS source, subject AS hub FROM about));

-- How accurate is it, compared with its two parts and with baselines? The MLP ignores the links. `evaluate` also has a
-- row for each class, for its F1.
SELECT method, split, round(macro_f1, 3) AS macro_f1, round(micro_f1, 3) AS micro_f1, count
FROM evaluate('acm')
WHERE class IS NULL
ORDER BY split, macro_f1 DESC;

-- The confusion matrix: the predicted areas of the papers of each area, in percent
PIVOT (SELECT subject_area, label, 100 / count(*) OVER (PARTITION BY subject_area) AS share
       FROM predict('acm') JOIN paper ON id = paper WHERE split_20 = 'test')
ON 'as ' || label USING round(sum(share), 1) ORDER BY subject_area;

-- The papers with the least certain predictions
SELECT id, label, subject_area, round(probability, 2) AS probability
FROM predict('acm') JOIN paper ON id = paper
WHERE split_20 = 'test' ORDER BY predict.probability LIMIT 5;

-- Which relations, and which neighbours in them, counted most for the first paper, in the network and in the linear part?
SELECT part, relation, type, if(kind = 'relation', 'all neighbours', neighbour::VARCHAR) AS neighbour,
       round(weight, 3) AS weight
FROM explain('acm', (SELECT 0 AS id), k := 3)
WHERE kind <> 'features'
ORDER BY part DESC, relation, kind DESC, explain.weight DESC;
