"""Data sets: layouts and label maps, reading, joint transforms, the sample stream and its loaders.

Nothing is imported here, so that the street generator needs no torchvision.
"""
