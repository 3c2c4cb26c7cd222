"""Loaded for every run of pytest from this folder; what tests use is in tests/conftest.py."""

pytest_plugins = ["tools.pytest_book"]
