collect_ignore = ["swap_sklearn.py"]  # a plugin, not to be imported for doctests
