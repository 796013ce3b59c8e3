"""Make docs/results.md and its plots from the lines under benchmarks/results/reproduce, and nothing else.

    python benchmarks/reproduce/page.py [--check]

What the tables mean stands in notes/<table>.md beside this file.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter
from tables import FEDAVG, RESULTS, TABLES, rows

HERE, DOCS = Path(__file__).parent, Path(__file__).parents[2] / "docs"
Line = dict[str, Any]
_PRETRAINED = ("frozen", "pretrained")


class Row(NamedTuple):
    """All runs of a trial file."""

    name: str
    what: str
    lines: list[Line]

    def mean(self, key: str) -> float:
        return fmean(line[key] for line in self.lines)

    @property
    def accuracy(self) -> float:
        return self.mean("accuracy")

    @property
    def spread(self) -> float:
        accuracies = [line["accuracy"] for line in self.lines]
        return stdev(accuracies) if len(accuracies) > 1 else 0.0

    @property
    def wire_bytes(self) -> float:
        return self.mean("up_bytes") + self.mean("down_bytes")

    @property
    def clients(self) -> str:
        """Of a table with several numbers of clients, this row's; it is compared with the vanilla one of as many."""
        found = re.search(r" (\d+) clients?$", self.what)
        return found[1] if found and self.name.endswith(f"-{found[1]}") else ""


def read(table: str) -> list[Row]:
    """The rows of a table that have results, in memory where there are such, best accuracy first."""
    path = RESULTS / f"{table}.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    found = []
    for trial in rows(table):
        own = [line for line in lines if line["row"] == trial.stem and line["transport"] == "memory"]
        if own:
            what = "The whole model on the clients (FedAvg), in plain torch; traffic by its size"
            if trial.stem != FEDAVG:
                what = trial.read_text().splitlines()[0].removeprefix("# ").removesuffix(".")
            found.append(Row(trial.stem, what, sorted(own, key=lambda line: line["seed"])))
    return sorted(found, key=lambda row: (row.clients.zfill(3), -row.accuracy))


def baseline(row: Row, table: list[Row]) -> Row | None:
    """The vanilla row that this one is compared with."""
    same = [each for each in table if each.name in ("vanilla", "splitfed", "every-raw")]
    same += [each for each in table if each.name == f"vanilla-{row.clients}"]
    return same[0] if same else None


def table_of(name: str, found: list[Row]) -> list[str]:
    text = [
        f"## {TABLES[name].title}",
        "",
        *notes(name),
        (
            f"`python benchmarks/reproduce/run.py --data FOLDER --tables {name}`; {TABLES[name].samples:,} training and "
            f"{TABLES[name].test:,} {'validation' if TABLES[name].validates else 'test'} images, {deal_of(name)}."
        ),
        "",
        "| row | what | seeds | accuracy % | MB | less traffic | less client compute | epochs |",
        "|---|---|---|---:|---:|---:|---:|---|",
    ]
    for row in found:
        base = baseline(row, found)
        less = f"{base.wire_bytes / row.wire_bytes:.1f}x" if base and row.wire_bytes else ""
        compute = less_compute(row)
        seeds = " ".join(str(line["seed"]) for line in row.lines)
        accuracy = f"{row.accuracy:.2f} ± {row.spread:.2f}" if len(row.lines) > 1 else f"{row.accuracy:.2f}"
        modes = row.lines[0]["modes"]
        shown = modes if len(set(modes)) > 1 else f"{len(modes)} x {modes[:1]}"
        text.append(
            f"| `{row.name}` | {row.what} | {seeds} | {accuracy} | {row.wire_bytes / 1e6:.1f} | {less} | {compute} | {shown} |"
        )
    return [*text, "", *places(found), *both_ways(name), *choice(name, found), *latency(name), ""]


def places(found: list[Row]) -> list[str]:
    """On what the server's half was trained, where that was not the CPU everywhere."""
    others: dict[str, list[str]] = {}
    for row in found:
        for line in row.lines:
            if (place := line.get("processor", "cpu")) != "cpu":
                others.setdefault(place, []).append(f"`{row.name}` {line['seed']}")
    whole = sum(len(row.lines) for row in found)
    return [
        f"The server's half of {'all runs' if len(runs) == whole else f'{len(runs)} of the {whole} runs'} was trained on one {place}."
        for place, runs in others.items()
    ]


def choice(name: str, found: list[Row]) -> list[str]:
    """Of a table that is for choosing: what it chooses, with and without a client that was pre-trained."""
    base = next((row for row in found if row.name == "every-raw"), None)
    if not TABLES[name].validates or base is None:
        return []
    text = [""]
    for candidates, whose in (
        (found, ""),
        ([row for row in found if not row.name.startswith(_PRETRAINED)], ", without pre-training,"),
    ):
        for points in (0.5, 1.0):
            best = min(
                (row for row in candidates if row.accuracy >= base.accuracy - points), key=lambda row: row.wire_bytes
            )
            text.append(
                f"- At no more than {points} points below `{base.name}`{whose} the least traffic is that of `{best.name}`: "
                f"{base.wire_bytes / best.wire_bytes:.0f}x less, {best.accuracy - base.accuracy:+.2f} points."
            )
    return [*text, ""]


def latency(name: str) -> list[str]:
    """Of EPSL: a step by the model, and over shaped links."""
    path = RESULTS / "latency.jsonl"
    if name != "epsl" or not path.exists():
        return []
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    text = [
        "",
        "| | phi | a step modelled | measured | against phi 0 | of it the server's half |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for line in lines:
        first = next(each for each in lines if each["place"] == line["place"])
        text.append(
            f"| {line['place']} | {line['phi']} | {1e3 * line['modelled_s']:.0f} ms | {1e3 * line['measured_s']:.0f} ms | "
            f"{line['measured_s'] / first['measured_s']:.2f} | {1e3 * line['server']:.0f} ms |"
        )
    return ["", *notes("latency"), *text]


def less_compute(row: Row) -> str:
    if row.name == FEDAVG:
        return ""
    return f"{row.mean('vanilla_client_gflop') / row.mean('client_gflop'):.2f}x"


def deal_of(name: str) -> str:
    return {
        "iid": "dealt alike",
        "dirichlet": "each class dealt in proportions from Dirichlet(0.3)",
        "shards": "5 shards of one class each a client",
    }[TABLES[name].deal]


def notes(name: str) -> list[str]:
    path = HERE / "notes" / f"{name}.md"
    return [path.read_text().strip(), ""] if path.exists() else []


def both_ways(name: str) -> list[str]:
    """Rows that were run through MQTT, too, and whether they are equal."""
    path = RESULTS / f"{name}.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    text = []
    for line in lines:
        if line["transport"] != "mqtt":
            continue
        twin = [each for each in lines if each["transport"] == "memory" and each["row"] == line["row"]]
        twin = [each for each in twin if each["seed"] == line["seed"]]
        if twin:
            same = all(twin[0][key] == line[key] for key in ("accuracies", "losses", "modes", "up_payload_bytes"))
            text.append(
                f"Through a real broker and real processes, `{line['row']}` with seed {line['seed']}: "
                f"{'every accuracy, loss and payload byte is the same' if same else 'NOT the same'}; "
                f"{(line['up_bytes'] + line['down_bytes']) / 1e6:.1f} MB in MQTT packets, in memory "
                f"{(twin[0]['up_bytes'] + twin[0]['down_bytes']) / 1e6:.1f}."
            )
    return text


def plot(dataset: str, found: dict[str, list[Row]]) -> None:
    """Accuracy against traffic, and against client compute, of every row of a data set."""
    chosen = {
        name: each for name, each in found.items() if TABLES[name].dataset == dataset and each and TABLES[name].plotted
    }
    if not chosen:
        return
    plotted = [row for table in chosen.values() for row in table]
    computes = len({row.mean("client_gflop") for row in plotted if row.name != FEDAVG}) > 1
    figure, axes = plt.subplots(1, 1 + computes, figsize=(7 + 5 * computes, 5), sharey=True, squeeze=False)
    wire, *compute = axes[0]
    for name, table in chosen.items():
        style = {"label": TABLES[name].title, "s": 24}
        wire.scatter([row.wire_bytes / 1e6 for row in table], [row.accuracy for row in table], **style)
        shown = [row for row in table if row.name != FEDAVG]
        for axis in compute:
            axis.scatter([row.mean("client_gflop") for row in shown], [row.accuracy for row in shown], **style)
            axis.set(xlabel="GFLOP on the clients")
    annotate_front(wire, plotted)
    wire.set(xlabel="MB on the wire, both ways", ylabel="accuracy %", xscale="log")
    wire.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    wire.xaxis.set_major_formatter("{x:g}")
    wire.xaxis.set_minor_formatter(NullFormatter())
    for axis in axes[0]:
        axis.grid(alpha=0.3)
    axes[0][-1].legend(fontsize=8, loc="lower right")
    figure.tight_layout()
    figure.savefig(DOCS / f"results-{dataset}.png", dpi=110, metadata={"Software": None})
    plt.close(figure)


def annotate_front(axis: Axes, found: list[Row]) -> None:
    """Join and name the rows that no other beats in both accuracy and traffic."""
    best, front = 0.0, []
    for row in sorted(found, key=lambda row: row.wire_bytes):
        if row.accuracy > best:
            best, front = row.accuracy, [*front, (row.wire_bytes / 1e6, row.accuracy, row.name)]
    axis.plot([x for x, *_ in front], [y for _, y, _ in front], color="grey", linewidth=0.8, zorder=0)
    for number, (x, y, label) in enumerate(front):  # above and below in turn, since neighbours are close
        axis.annotate(label, (x, y), fontsize=7, xytext=(3, -10 if number % 2 else 6), textcoords="offset points")


def page(found: dict[str, list[Row]]) -> str:
    """The text of docs/results.md."""
    text = [notes("page")[0], ""]
    for dataset in dict.fromkeys(TABLES[name].dataset for name, table in found.items() if table):
        text += [f"![Accuracy against traffic and client compute, {dataset}](results-{dataset}.png)", ""]
    for name, table in found.items():
        if table:
            text += table_of(name, table)
    return "\n".join(text).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only say whether docs/results.md is up to date")
    found, path = {name: read(name) for name in TABLES}, DOCS / "results.md"
    if parser.parse_args().check:
        sys.exit(0 if path.read_text() == page(found) else f"{path} is not what the lines say: run page.py")
    path.write_text(page(found))
    for dataset in dict.fromkeys(table.dataset for table in TABLES.values()):
        plot(dataset, found)
    print(f"{sum(len(row.lines) for table in found.values() for row in table)} runs on the page")


if __name__ == "__main__":
    main()
