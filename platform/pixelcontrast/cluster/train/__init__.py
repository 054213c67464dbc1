"""Run one training on Ray: launch it, follow it, and restart it when workers or nodes fail.

The way down: ``launch`` (called by the user) → ``driver`` (this process) → ``trainer`` (an actor that runs
Ray's trainer) → ``worker`` (one process per rank). A single worker is an actor by itself (``launcher``).
"""
