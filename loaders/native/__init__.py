"""The native decoder: a small C++ library over libjpeg-turbo, and what calls it."""
