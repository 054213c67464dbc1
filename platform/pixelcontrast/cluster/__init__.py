"""The only Ray code: ``train`` one run, ``tune`` a search, ask the ``doctor`` whether a cluster is ready.

Importing this package does not import Ray, as a local instance needs its environment set first. The modules
that import Ray say so. ``ray_internals`` alone uses its private names.
"""
