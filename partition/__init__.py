"""Self-sufficient graph partitions. Empty until the partition layer lands; nothing imports it yet."""
