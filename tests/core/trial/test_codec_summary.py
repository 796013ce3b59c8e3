from importlib import resources

import pytest

from cutlayer_core.trial.codec_summary import codec_summary

RAW = "float32 as it is; fp8 makes it 4 times smaller)"
UP, DOWN = "[codec.up]\nid = ", "[codec.down]\nid = "


@pytest.mark.parametrize(
    ("text", "summary"),
    [
        ("", f"up raw, down raw (no [codec] in the trial file: {RAW}"),
        (f'{UP}"raw"\n{DOWN}"raw"', f"up raw, down raw ({RAW}"),
        (f'{UP}"fp8"', "up fp8, down raw"),
        (f'{UP}"intq"\nbits = 4\n{DOWN}"fp8"\nformat = "e5m2"', "up intq (bits 4), down fp8 (format e5m2)"),
        (f'{UP}"pq"\nsubvectors = 4\nclusters = 8\n{DOWN}"fp16"', "up pq (subvectors 4, clusters 8), down fp16"),
        ('[codec]\nlossless = "zstd"', "up raw, down raw, then zstd"),
        (f'[schedule]\nid = "forward"\n{UP}"fp8"', "up fp8, nothing down"),
        ('[schedule]\nid = "forward"', f"up raw, nothing down (no [codec] in the trial file: {RAW}"),
    ],
)
def test_it_names_what_travels_and_says_when_that_is_float32(text, summary):
    assert codec_summary(f'name = "mine"\n{text}') == summary


def test_the_demo_uses_fp8_both_ways():
    text = resources.files("cutlayer.demo").joinpath("trial.toml").read_text("utf-8")
    assert codec_summary(text) == "up fp8, down fp8"


@pytest.mark.parametrize(
    "text", ["", 'name = "mine"\n[codec.up]\nid = "of another version"', 'name = "mine"\ncodec = 3', "= no TOML"]
)
def test_what_cannot_be_read_is_not_spoken_of(text):
    assert codec_summary(text) == ""
