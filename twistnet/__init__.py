"""TwistNet-18 and the training of it: importing this package registers the models with timm."""

import sys
import warnings

from launch.interrupting import interrupted, is_program
from launch.version import VERSION as __version__

__all__ = ["__version__", "model", "variants", "weights"]

try:
    from twistnet import model, variants, weights
except ImportError as error:
    # Not raised, because `twistnet doctor` must be able to say what is broken. Whoever uses model or weights meets it.
    warnings.warn(f"twistnet registers no models: {error}", RuntimeWarning, stacklevel=2)
except KeyboardInterrupt:  # torch and timm take seconds, which `python -m twistnet` spends here, before __main__
    if not is_program("twistnet"):
        raise
    sys.exit(interrupted("twistnet"))
