"""What the network computes on: edges, and samples of neighbours."""
