"""Models to try cutlayer on: plain definitions, one file each. Every class is a factory for ``--model``.

Submodules are named as in torchvision, so that a cut such as ``features.5`` means the same.
"""
