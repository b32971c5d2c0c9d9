"""The network: graph convolution, Tucker core, LSTM, heads."""
