import io

from rich.console import Console

from cutlayer_core.record.events import Ended, EpochDone, Joined, Missed, Started, Step
from cutlayer_server.progress import ProgressDisplay

EVENTS = [
    Started(time_s=1.0, devices={"a": 10, "b": 11}),
    Step(
        time_s=1.5, epoch=0, step=0, device="a", samples=10, loss=0.5, correct=7,
        up_payload_bytes=2000, down_payload_bytes=1000, raw_payload_bytes=8000,
    ),
    EpochDone(
        time_s=3.0, epoch=0, mode="exchange", loss=0.5, accuracy=0.7, test_loss=0.6, test_accuracy=0.65,
        steps=1, duration_s=2.0, up_bytes=2150, down_bytes=1140, phases_s={},
    ),
    Missed(time_s=3.1, epoch=1, device="b", reason="nothing was heard from b for 5 s"),
    Joined(time_s=3.2, epoch=2, device="b", samples=11),
    Ended(time_s=3.5, ok=True, reason="all 1 epochs are done"),
]  # fmt: skip


def shown(*, terminal):
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=120, highlight=False)
    with ProgressDisplay(1, console) as display:
        display.waiting_for(["a", "b"])
        for event in EVENTS:
            display.show(event)
            if terminal:
                display._bar.refresh()
    return out.getvalue()


def test_a_log_gets_a_line_an_epoch_and_nothing_else():
    assert shown(terminal=False).splitlines() == [
        "waiting for a, b to join",
        "joined: a (10 samples), b (11 samples)",
        "epoch     loss  test acc    kB up  kB down  steps/s",
        "    1   0.5000     65.0%      2.1      1.1      0.5",
        "going on without b: nothing was heard from b for 5 s",
        "b takes part from epoch 3 on (11 samples)",
        "all 1 epochs are done",
    ]


def test_a_terminal_also_sees_the_running_epoch():
    text = shown(terminal=True)
    assert "epoch 1 a" in text
    assert "loss 0.500  acc 70%  2 kB up  1 kB down  2 steps/s" in text
