"""What is public is public on purpose, and documented."""

import importlib
import inspect
import pkgutil

import pytest

PACKAGES = [
    "cutlayer",
    "cutlayer_core",
    "cutlayer_cut",
    "cutlayer_device",
    "cutlayer_export",
    "cutlayer_flash",
    "cutlayer_profiles",
    "cutlayer_server",
]
MODULES = sorted(
    module.name
    for package in PACKAGES
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, package + ".")
    if not module.name.endswith("__main__")
)


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_is_listed_and_documented(name):
    module = importlib.import_module(name)
    assert module.__doc__
    listed = getattr(module, "__all__", [])
    for public in listed:
        found = getattr(module, public)
        if inspect.isclass(found) or inspect.isfunction(found):
            assert inspect.getdoc(found), f"{name}.{public}"
    own = {
        each
        for each, value in vars(module).items()
        if not each.startswith("_") and getattr(value, "__module__", None) == name and inspect.isfunction(value)
    }
    commands = (
        {
            *("certs", "cutlayer", "demo", "device", "export", "report", "run", "serve", "status"),
            *("flash_build", "flash_key", "flash_sd", "flash_ssh", "flash_tar", "flash_update"),
            *("profile_compare", "profile_trial"),
        }
        if name.startswith("cutlayer.cli.") or name.endswith("cli")
        else set()
    )
    assert own - set(listed) <= commands
