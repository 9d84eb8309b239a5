"""TwistNet-18 and the training of it: importing this package registers the models with timm."""

import warnings

from launch.version import VERSION as __version__

__all__ = ["__version__", "model", "variants", "weights"]

try:
    from twistnet import model, variants, weights
except ImportError as error:
    # Not raised, because `twistnet doctor` must be able to say what is broken. Whoever uses model or weights meets it.
    warnings.warn(f"twistnet registers no models: {error}", RuntimeWarning, stacklevel=2)
