"""Packs: data sets decoded once, read from memory maps, with a checksum for every sample and shard."""
