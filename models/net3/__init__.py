"""NET3: tensor time series over graphs of their modes."""
