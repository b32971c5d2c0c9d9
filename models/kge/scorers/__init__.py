"""One scoring function per file: TransE, DistMult, ComplEx, RotatE, SimplE and CP, RESCAL and TuckER."""
