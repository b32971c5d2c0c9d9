-- L1, self-adversarial negatives, known answers excluded. Many epochs: most relations of WordNet are symmetric or
-- hierarchical, which a translation learns slowly and only in part.
SET VARIABLE path = '../shared/data/kg/wn18rr.parquet';

CREATE OR REPLACE MODEL m
  TYPE transe
  OPTIONS (dim = 500, epochs = 250, negatives = 300, margin = 6, adversarial_temperature = 0.5, evaluate_every = 50,
           patience = 0)
  AS FROM read_parquet(getvariable('path'));
