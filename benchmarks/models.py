"""Export models that others wrote at three cuts each, for both engines: what passes, and what is refused and why.

    pip install 'torchvision==0.28.0' timm transformers
    python benchmarks/models.py --page docs/models.md

All have random weights, small inputs and, where their configuration allows it, few layers: what is looked at are their
operations. Each export runs in a process of its own. What is in ``--results`` already is not done again.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import msgspec
import torch
from torch import Tensor, nn
from torch.library import Library

from cutlayer_core.errors import CutlayerError, UserError
from cutlayer_core.trial.optimizers import Sgd
from cutlayer_core.trial.recipe import Model, Recipe
from cutlayer_cut import build_model, cut_model
from cutlayer_export.export import export_bundle
from cutlayer_export.graph.form import Form

ENGINES, SHARES, LIMIT_S = ("onnx", "tflite"), (0.15, 0.5, 0.8), 600
IMAGE = {"input_shape": (3, 64, 64)}
TEXT = {"input_shape": (12,), "input_dtype": "int64", "input_range": (0, 99)}


class Case(NamedTuple):
    """A model of a package: its name there, its input, and options of its configuration."""

    package: str
    name: str
    example: dict[str, object] = IMAGE
    options: dict[str, object] = {}  # noqa: RUF012 - read only


VISION = [
    "resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2", "vgg11_bn", "alexnet", "squeezenet1_1",
    "densenet121", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "mnasnet0_5", "shufflenet_v2_x0_5",
    "efficientnet_b0", "efficientnet_v2_s", "regnet_x_400mf", "regnet_y_400mf", "convnext_tiny", "googlenet",
    "swin_t",
]  # fmt: skip
TIMM = [
    "ghostnet_100", "mobilenetv4_conv_small", "efficientnet_lite0", "tinynet_e", "lcnet_050", "mobileone_s0",
    "fbnetc_100", "hardcorenas_a", "dla34", "res2net50_26w_4s", "skresnet18", "repvgg_a0", "edgenext_xx_small",
    "mobilevit_xxs", "repghostnet_050", "convmixer_768_32", "poolformer_s12", "cspresnet50", "resnest14d",
    "hrnet_w18_small", "levit_128s", "xcit_nano_12_p16_224", "vit_tiny_patch16_224", "deit_tiny_patch16_224",
]  # fmt: skip
OF_SIZE = {"vit_tiny_patch16_224", "deit_tiny_patch16_224", "xcit_nano_12_p16_224", "levit_128s"}
BERT = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 64, "vocab_size": 100}
GPT = {
    "n_embd": 32,
    "n_head": 2,
    "n_layer": 2,
    "vocab_size": 100,
    "n_positions": 32,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
LLAMA = {
    **BERT,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TRANSFORMERS = {
    "Bert": BERT,
    "DistilBert": {"dim": 32, "n_heads": 2, "n_layers": 2, "hidden_dim": 64, "vocab_size": 100},
    "Roberta": BERT,
    "Albert": {**BERT, "embedding_size": 16},
    "Electra": {**BERT, "embedding_size": 16},
    "MobileBert": {**BERT, "embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16},
    "SqueezeBert": {**BERT, "embedding_size": 32},
    "XLMRoberta": BERT,
    "DebertaV2": BERT,
    "MPNet": BERT,
    "Funnel": {"d_model": 32, "n_head": 2, "d_head": 16, "d_inner": 64, "vocab_size": 100, "block_sizes": [1, 1]},
    "GPT2": GPT,
    "OpenAIGPT": GPT,
    "GPTNeoX": LLAMA,
    "Llama": LLAMA,
    "Mistral": LLAMA,
    "Qwen2": LLAMA,
    "OPT": {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2, "ffn_dim": 64, "vocab_size": 100, "max_position_embeddings": 32},
}  # fmt: skip
CASES = [
    *(Case("torchvision", name) for name in VISION),
    *(Case("timm", name, IMAGE, {"img_size": 64} if name in OF_SIZE else {}) for name in TIMM),
    *(Case("transformers", name, TEXT, options) for name, options in TRANSFORMERS.items()),
]


@cache
def _declare_operations() -> Library:
    """torchvision's wheel is built for CUDA: its own operations, which no model here calls, are only declared."""
    library = Library("torchvision", "DEF")
    for each in ("nms", "qnms", "roi_align", "qroi_align", "ps_roi_align", "roi_pool", "ps_roi_pool", "deform_conv2d"):
        library.define(f"{each}(Tensor x) -> Tensor")
        library.define(f"_{each}_backward(Tensor x) -> Tensor")
    return library


def torchvision(name: str, **options: object) -> nn.Module:
    """A torchvision model."""
    _declare_operations()
    from torchvision import models

    extra = {"aux_logits": False, "init_weights": True} if name == "googlenet" else {}
    return models.get_model(name, num_classes=10, **extra, **options)


def timm(name: str, **options: object) -> nn.Module:
    """A timm model."""
    _declare_operations()  # timm imports torchvision
    import timm as package

    return package.create_model(name, num_classes=10, **options)


class LastState(nn.Module):
    """A transformers model that gives its last hidden states, with a head of ten classes."""

    def __init__(self, model: nn.Module, width: int) -> None:
        super().__init__()
        self.model, self.head = model, nn.Linear(width, 10)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N) to scores (B, 10)."""
        return self.head(self.model(tokens)[0].mean(1))


def transformers(name: str, **options: object) -> nn.Module:
    """A transformers model made from its configuration."""
    _declare_operations()
    import transformers as package

    config = getattr(package, f"{name}Config")(**options)
    if hasattr(config, "use_cache"):
        config.use_cache = False
    model = getattr(package, f"{name}Model")(config)
    width = next(getattr(config, key) for key in ("hidden_size", "n_embd", "dim", "d_model") if hasattr(config, key))
    return LastState(model, width)


def names_to_try(model: nn.Module, share: float) -> Iterator[str]:
    """Names of modules from a share of the way through the model on, then those before, from there back."""
    names = [
        name
        for name, module in model.named_modules()
        if name and name.count(".") <= 3 and any(True for _ in module.parameters())
    ]
    start = int(share * len(names))
    yield from names[start : start + 25]
    yield from reversed(names[max(0, start - 25) : start])


def export_one(case: Case, share: float, engine: str) -> dict[str, object]:
    """Export at the first possible cut from ``share`` on, or at the last one before it."""
    begun, cut, reason = time.monotonic(), "", "no cut was found"
    kwargs = {"name": case.name, **case.options}
    model = Model(factory=f"models:{case.package}", cut="", kwargs=kwargs, **case.example)
    recipe = Recipe(name="models", model=model, optimizer=Sgd(learning_rate=0.01, momentum=0.9))
    for cut in names_to_try(build_model(model, 0), share):
        at = msgspec.structs.replace(recipe, model=msgspec.structs.replace(model, cut=cut))
        try:
            cut_model(at)
            with TemporaryDirectory() as folder:
                export_bundle(at, Path(folder) / "client.zip", form=Form(engine))
            reason = ""
            break
        except UserError as error:
            reason = str(error)
            if reason.startswith("model.cut:"):
                continue  # several tensors cross here, as in any residual block
            break
        except CutlayerError as error:
            reason = str(error)
            break
    return {"cut": cut, "reason": reason, "seconds": round(time.monotonic() - begun, 1)}


def run(case: Case, share: float, engine: str) -> dict[str, object]:
    """`export_one` in a process of its own."""
    given = json.dumps([case._asdict(), share, engine])
    command = [sys.executable, __file__, "--one", given]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=LIMIT_S, check=False, cwd=Path(__file__).parent
        )
    except subprocess.TimeoutExpired:
        return {"cut": "", "reason": f"took more than {LIMIT_S} s", "seconds": LIMIT_S}
    if done.returncode == 0:
        return json.loads(done.stdout.strip().splitlines()[-1])
    return {"cut": "", "reason": "a mistake of ours: " + (done.stderr.strip().splitlines() or ["?"])[-1], "seconds": 0}


def page(results: dict[str, dict[str, object]]) -> str:
    """The results as a page."""
    results = {
        name: each
        for name, each in results.items()
        if all(f"{name.rpartition(' ')[0]} {engine}" in results for engine in ENGINES)
    }
    passed = sum(not each["reason"] for each in results.values())
    lines = [
        "# Models that others wrote",
        "",
        "Written by `benchmarks/models.py`, which says how to repeat it: random weights, small inputs, three cuts a model, each export",
        "certified against torch. A cut is the first possible one from 15, 50 or 80 % of the way through the model on, or the last before it.",
        "",
        f"So far {len(results)} of {len(CASES) * len(SHARES) * len(ENGINES)} exports were tried; {passed} pass.",
        "",
        "| model | cut | ONNX | TFLite |",
        "|---|---|---|---|",
    ]
    refused = []
    for case in CASES:
        for share in SHARES:
            found = {engine: results.get(key(case, share, engine)) for engine in ENGINES}
            if not all(found.values()):
                continue
            cut = found["onnx"]["cut"] or found["tflite"]["cut"]
            marks = ["refused" if each["reason"] else "yes" for each in found.values()]
            lines.append(f"| {case.package} {case.name} | `{cut}` | {' | '.join(marks)} |")
            refused += [
                f"| {case.name} | `{each['cut']}` | {engine} | {each['reason']} |"
                for engine, each in found.items()
                if each["reason"]
            ]
    if refused:
        lines += ["", "## What is refused", "", "| model | cut | engine | reason |", "|---|---|---|---|", *refused]
    return "\n".join(lines) + "\n"


def key(case: Case, share: float, engine: str) -> str:
    return f"{case.package} {case.name} {share} {engine}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("runs/models.json"))
    parser.add_argument("--page", type=Path, help="write the page here")
    parser.add_argument("--only", default="", help="models whose package and name have this in them")
    parser.add_argument(
        "--shares", type=float, nargs="+", default=SHARES, help="how far through a model to look for cuts"
    )
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        case, share, engine = json.loads(options.one)
        torch.set_num_threads(1)
        print(json.dumps(export_one(Case(**case), share, engine)))
        return
    results = json.loads(options.results.read_text()) if options.results.exists() else {}
    options.results.parent.mkdir(exist_ok=True, parents=True)
    for share, case, engine in product(options.shares, CASES, ENGINES):
        name = key(case, share, engine)
        if name in results or options.only not in f"{case.package} {case.name}":
            continue
        results[name] = run(case, share, engine)
        options.results.write_text(json.dumps(results, indent=1))
        print(f"{name}: {results[name]}"[:300], flush=True)
    if options.page:
        options.page.write_text(page(results))


if __name__ == "__main__":
    main()
