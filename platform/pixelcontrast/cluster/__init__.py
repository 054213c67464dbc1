"""The only Ray code: connect to a cluster or start a local one, launch a training, follow its progress.

Importing this package, or any module of it, does not import Ray; its functions do. The local instance needs
its environment set before that.
"""
