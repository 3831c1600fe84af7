"""The journal of a shard: what it decided, in order, on disk before anybody is told."""
