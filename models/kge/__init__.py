"""Knowledge-graph embeddings: TransE, DistMult, ComplEx, RotatE, SimplE, CP, RESCAL and TuckER.

options.py               what a user can set          scorer.py, scorers/   the equation of each model
batches.py               queries and negatives        losses.py             what training minimises
device_batches.py        the same, drawn on a GPU     engines/              one optimiser step on the tables
embedding.py             scores, answers, ranks       kernels/              the compiled parts of all these
"""
