"""What tests and benchmarks share: networks filled by a rule, generated pictures, an echo model, and parity.

Nothing of the package itself imports it. Some of it needs packages of requirements-dev.txt, but never pytest.
"""
