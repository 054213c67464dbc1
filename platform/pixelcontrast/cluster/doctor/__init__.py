"""Check that a cluster, or this machine, is ready: ``probe`` collects facts, ``findings`` judges them."""
