"""The network: attention between neighbours and between relations."""
