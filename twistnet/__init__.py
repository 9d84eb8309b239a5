"""TwistNet-18 and the training of it: importing this package registers the models with timm."""

from launch.version import VERSION as __version__
from twistnet import model, weights

__all__ = ["__version__", "model", "weights"]
