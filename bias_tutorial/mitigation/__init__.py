"""Methods against the use of a bias, one file a method."""
