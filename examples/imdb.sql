-- Movies, directors and actors: is a movie an action movie, a comedy or a drama?
--
--   graphlearn run examples/imdb.sql --workspace build/imdb.duckdb --set path=/path/to/imdb
--
-- The folder contains movie.parquet (movie, title, genre, plot_keywords, split), directs.parquet (movie, director) and
-- plays.parquet (movie, actor). 400 movies are labelled for training.

SET VARIABLE path = '../shared/data/hetero/imdb';

CREATE OR REPLACE TABLE movie AS FROM read_parquet(getvariable('path') || '/movie.parquet');
CREATE OR REPLACE TABLE directs AS FROM read_parquet(getvariable('path') || '/directs.parquet');
CREATE OR REPLACE TABLE plays AS FROM read_parquet(getvariable('path') || '/plays.parquet');

-- The features are the words of the plot keywords ('love triangle|new york'). Directors and actors are hubs: movies that
-- share one are neighbours.
CREATE OR REPLACE MODEL imdb
  TYPE dhan
  OPTIONS (target = 'genre')
  AS (movie    AS (SELECT movie AS id, regexp_extract_all(plot_keywords, '\w+') AS words, genre, split FROM movie),
      director AS (SELECT movie AS source, director AS hub FROM directs),
      actor    AS (SELECT movie AS source, actor AS hub FROM plays));

-- How accurate is it, compared with its two parts and with baselines? The MLP knows no directors and actors. `evaluate`
-- also has a row for each class, for its F1.
SELECT method, split, round(macro_f1, 3) AS macro_f1, round(micro_f1, 3) AS micro_f1, count
FROM evaluate('imdb')
WHERE class IS NULL
ORDER BY split, macro_f1 DESC;

-- The most confident wrong predictions
SELECT title, genre, label, round(probability, 2) AS probability
FROM predict('imdb') JOIN movie ON id = movie
WHERE split = 'test' AND label <> genre ORDER BY predict.probability DESC LIMIT 8;

-- Predicted genres of the test movies, per director
SELECT director, count(*) AS movies, string_agg(DISTINCT label, ', ' ORDER BY label) AS predicted,
       round(avg((label = genre)::INTEGER), 2) AS "right"
FROM predict('imdb') JOIN movie ON id = movie JOIN directs USING (movie)
WHERE split = 'test' GROUP BY director ORDER BY movies DESC, director LIMIT 6;

-- Which relations and neighbours counted most in the prediction for Avatar, in the network and in the linear part?
SELECT part, relation, if(kind = 'relation', 'all neighbours', title) AS neighbour, round(weight, 3) AS weight
FROM explain('imdb', (SELECT 0 AS id), k := 3) LEFT JOIN movie ON neighbour = movie
WHERE kind <> 'features'
ORDER BY part DESC, relation, kind DESC, explain.weight DESC;
