"""Wheels that hold next to nothing; also a build backend that makes such a one of the folder it is called in."""

import zipfile
from pathlib import Path


def make_wheel(folder, name, version, tag="py3-none-any", files=None, requires=()):
    """Write a wheel; ``files`` are texts by their paths. Returns its file name."""
    info = f"{name}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {each}\n" for each in requires)
    written = {
        **(files or {f"{name}/__init__.py": f"__version__ = {version!r}\n"}),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nProvides-Extra: demo\n{needs}\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    record = "".join(f"{path},,\n" for path in [*written, f"{info}/RECORD"])
    file = f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(Path(folder) / file, "w") as wheel:
        for path, text in {**written, f"{info}/RECORD": record}.items():
            wheel.writestr(path, text)
    return file


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    return make_wheel(wheel_directory, "cutlayer", "0.0")
