"""Run a search on Ray Tune: ``search`` starts it, ``trial`` runs one trial, ``hooks`` is what Tune calls."""
