"""Speed of the codecs on one thread, FP8 as a ratio to ml_dtypes' cast in the same run.

    python benchmarks/codecs.py [--values 4000000] [--rounds 15] [--json]

Contenders take turns within a round, so that a busy machine slows all of them alike; each figure is the median over
rounds, a ratio the median of the ratios within a round. MB/s are of float32.
"""

import argparse
import json
import time
from collections.abc import Callable
from statistics import median

import ml_dtypes
import numpy as np

from cutlayer.codecs import Fp8, Fp16, Raw

CODECS = {"raw": Raw(), "fp16": Fp16(), "fp8 e4m3": Fp8("e4m3"), "fp8 e5m2": Fp8("e5m2")}
PEERS = {"fp8 e4m3": ml_dtypes.float8_e4m3fn, "fp8 e5m2": ml_dtypes.float8_e5m2}


def contenders(values: np.ndarray) -> dict[tuple[str, str], Callable[[], object]]:
    """What takes turns: encode and decode of each codec, and of its peer."""
    turns: dict[tuple[str, str], Callable[[], object]] = {}
    for name, codec in CODECS.items():
        payload, params = codec.encode(values)
        turns[name, "encode"] = lambda codec=codec: codec.encode(values)
        turns[name, "decode"] = lambda codec=codec, payload=payload, params=params: codec.decode(
            payload, params, values.shape
        )
    for name, dtype in PEERS.items():
        codes = values.astype(dtype)
        turns[f"ml_dtypes {name}", "encode"] = lambda dtype=dtype: values.astype(dtype)
        turns[f"ml_dtypes {name}", "decode"] = lambda codes=codes: codes.astype(np.float32)
    return turns


def measure(turns: dict[tuple[str, str], Callable[[], object]], rounds: int) -> dict[tuple[str, str], list[float]]:
    """Seconds of each contender in each round, after one round that is not counted."""
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in turns}
    for number in range(rounds + 1):
        for key, run in turns.items():
            start = time.perf_counter()
            run()
            if number:
                seconds[key].append(time.perf_counter() - start)
    return seconds


def rows(values: np.ndarray, seconds: dict[tuple[str, str], list[float]]) -> list[dict[str, object]]:
    """A row a codec and direction."""
    found = []
    for name, codec in CODECS.items():
        payload, params = codec.encode(values)
        error = np.abs(codec.decode(payload, params, values.shape) - values).max() / np.abs(values).max()
        for way in ("encode", "decode"):
            peer = seconds.get((f"ml_dtypes {name}", way))
            ratios = [b / a for a, b in zip(seconds[name, way], peer, strict=True)] if peer else None
            found.append(
                {
                    "codec": name,
                    "direction": way,
                    "mb_per_s": round(values.nbytes / 1e6 / median(seconds[name, way])),
                    "bits_per_entry": 8 * len(payload) / values.size,
                    "max_error_of_peak": float(f"{error:.2e}"),
                    "times_ml_dtypes": round(median(ratios), 1) if ratios else None,
                }
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--values", type=int, default=4_000_000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    values = np.random.default_rng(0).standard_normal(options.values, np.float32)
    table = rows(values, measure(contenders(values), options.rounds))
    if options.json:
        print(json.dumps(table, indent=2))
        return
    print(f"{options.values:,} values, one thread, median of {options.rounds} rounds")
    print(f"{'codec':<10} {'way':<7} {'MB/s':>6} {'bits':>5} {'error/peak':>11} {'x ml_dtypes':>12}")
    for row in table:
        ratio = "" if row["times_ml_dtypes"] is None else f"{row['times_ml_dtypes']:.1f}"
        print(
            f"{row['codec']:<10} {row['direction']:<7} {row['mb_per_s']:>6} {row['bits_per_entry']:>5.0f} "
            f"{row['max_error_of_peak']:>11.1e} {ratio:>12}"
        )


if __name__ == "__main__":
    main()
