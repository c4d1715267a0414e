"""Code shared by several test modules, which do not import each other."""
