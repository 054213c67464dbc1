"""How a generated street is drawn, with NumPy only; `scene.render` is the way in."""
