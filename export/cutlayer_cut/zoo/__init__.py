"""Models to try cutlayer on: plain definitions, one file each. Every class is a factory for ``--model``.

Submodules bear the names that the field knows from torchvision, so that a cut such as ``features.5`` means the same.
"""
