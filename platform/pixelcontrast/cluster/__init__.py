"""The only Ray code: connect to a cluster or start a local one, launch a training, follow its progress.

Importing this package does not import Ray, as the local instance needs its environment set before; of its
modules only those do that say so.
"""
