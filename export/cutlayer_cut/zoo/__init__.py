"""Models to try cutlayer on: plain definitions, one file each."""
