"""A search or a run in the browser, while it runs: optuna-dashboard and TensorBoard, on 127.0.0.1 only."""

from pixelcontrast.dashboard.pages import Pages, describe, serve

__all__ = ["Pages", "describe", "serve"]
