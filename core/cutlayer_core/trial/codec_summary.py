"""Which codecs a trial uses, in one line for people: a run and its report begin with it."""

import msgspec

from cutlayer_core.codecs import Codec, Codecs, Raw
from cutlayer_core.schedules import Every, Schedule

__all__ = ["codec_summary"]


class _Choice(msgspec.Struct, frozen=True):
    """The keys that decide it, and ``name``, which every trial file has; the others are passed over."""

    name: str
    codec: Codecs | None = None
    schedule: Schedule = Every()


def codec_summary(trial_text: str) -> str:
    """Such as ``up fp8, down fp8``, with the settings that are not the defaults.

    Says so where the trial file leaves the codecs out and float32 travels as it is. Empty for a text that is no trial file of
    this version: a run record may hold an older one.
    """
    try:
        choice = msgspec.toml.decode(trial_text, type=_Choice)
    except msgspec.DecodeError:
        return ""
    codecs = choice.codec or Codecs()
    answered = choice.schedule.exchanges
    ways = f"up {_named(codecs.up)}, " + (f"down {_named(codecs.down)}" if answered else "nothing down")
    if codecs.lossless != "none":
        return f"{ways}, then {codecs.lossless}"
    if isinstance(codecs.up, Raw) and (isinstance(codecs.down, Raw) or not answered):
        left_out = "" if choice.codec else "no [codec] in the trial file: "
        return f"{ways} ({left_out}float32 as it is; fp8 makes it 4 times smaller)"
    return ways


def _named(codec: Codec) -> str:
    settings = [
        f"{field.encode_name} {value}"
        for field in msgspec.structs.fields(codec)
        if (value := getattr(codec, field.name)) != field.default
    ]
    return f"{codec.id} ({', '.join(settings)})" if settings else codec.id
