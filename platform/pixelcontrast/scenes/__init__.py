"""Generated street scenes, drawn with NumPy: the data of the demo and of the tests.

`streets.write` writes a data set in the layout of Cityscapes; `streets.render` returns a single scene.
"""
