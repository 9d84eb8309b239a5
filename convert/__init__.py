"""From a data set as it was downloaded, or from installed photographs, to one that the loaders read."""
