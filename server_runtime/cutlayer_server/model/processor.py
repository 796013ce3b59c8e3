"""What the server-side model runs on: this machine's processor, or an accelerator."""

import os
from itertools import chain

import torch
from torch import nn

from cutlayer_core.errors import UserError

__all__ = ["CPU", "name_of", "place_of", "processor"]

CPU = torch.device("cpu")


def processor(name: str) -> torch.device:
    """The device that torch calls ``name``, such as "cuda" or "cuda:1", set up to give the same results each time.

    A run that resumes after a crash has to end as if there had been none, so of several ways to compute something the
    deterministic one is used (https://docs.pytorch.org/docs/stable/notes/randomness.html); if there is none, torch
    warns by name. Convolutions round to TF32, which is torch's default.

    Raises:
        UserError: torch knows no such device, or this machine has none.
    """
    try:
        found = torch.device(name)
        if found.type != "cpu":
            # cuBLAS reads this when it starts, so set it before anything is put on the device.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(mode=True, warn_only=True)
            torch.zeros(1, device=found).item()  # fails on "meta", which holds no data
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # AssertionError: torch was built without CUDA
        why = str(error).split("\n", 1)[0]
        raise UserError(f"--torch-device: found {name!r}, which this torch cannot use here: {why}") from error
    return found


def name_of(place: torch.device) -> str:
    """The name for the run record: "cpu", or the accelerator's model."""
    return torch.cuda.get_device_name(place) if place.type == "cuda" else place.type


def place_of(*modules: nn.Module) -> torch.device:
    """The device that holds the parameters of these modules."""
    parameters = chain.from_iterable(module.parameters() for module in modules)
    return next((parameter.device for parameter in parameters), CPU)
