"""One training step on the tables of a model: by autograd on any device, by fused kernels on a CPU."""
