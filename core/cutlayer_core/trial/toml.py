"""TOML files as frozen structs, with errors that name the key, what was found, and what is allowed."""

import difflib
import re
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from cutlayer_core.errors import UserError

__all__ = ["convert", "read"]

_T = TypeVar("_T")
_WHERE = re.compile(r" - at `(?:key in )?\$\.?(?P<path>[^`]*)`$")
_FIELD = re.compile(r"(?P<what>unknown|required) field `(?P<name>[^`]*)`")


def read(path: Path, into: type[_T]) -> _T:
    """Read ``path`` as ``into``.

    Raises:
        UserError: the file cannot be read, is not TOML, or has a key or value that ``into`` does not allow.
    """
    try:
        text = path.read_text(encoding="utf-8")
        raw = msgspec.toml.decode(text)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is not TOML: {error}") from error
    return convert(raw, into, str(path))


def convert(raw: Any, into: type[_T], source: str) -> _T:
    """Convert ``raw``, decoded from TOML or JSON, to ``into``. Raises `UserError` as `read` does, naming ``source``."""
    try:
        return msgspec.convert(raw, into)
    except msgspec.ValidationError as error:
        raise UserError(f"{source}: {_explain(str(error), raw, into)}") from error


def _explain(message: str, raw: Any, root: type) -> str:
    where = _WHERE.search(message)
    keys = re.findall(r"[^.\[\]]+", where["path"]) if where else []
    found, info = _descend(raw, msgspec.inspect.type_info(root), keys)
    key = where["path"] if where and where["path"] else "the file"
    field = _FIELD.search(message)
    if field is None:
        reason = message[: where.start()] if where else message
        is_one = isinstance(info, msgspec.inspect.StructType) and isinstance(found, dict)
        if is_one and found.get(info.tag_field or "") == info.tag:  # each key is right, but not all together
            return f"{key}: {reason}"
        return f"{key}: found {found!r}, allowed: {_allowed(info) or reason}"
    names = _field_names(info)
    if field["what"] == "required":
        return f"{key}: the key {field['name']!r} is missing; allowed: {', '.join(names) or _allowed(info)}"
    close = difflib.get_close_matches(field["name"], names, 1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{key}: found the unknown key {field['name']!r}, allowed: {', '.join(names)}{hint}"


def _descend(raw: Any, info: msgspec.inspect.Type, keys: list[str]) -> tuple[Any, Any]:
    """The value and the type that stand at ``keys``; a union of structs is narrowed by the tag that was found."""
    for key in keys:
        info = _narrow(info, raw)
        inner: Any = None
        if isinstance(info, msgspec.inspect.StructType):
            inner = next((field.type for field in info.fields if field.encode_name == key), None)
        elif isinstance(info, msgspec.inspect.VarTupleType | msgspec.inspect.ListType):
            inner = info.item_type
        if inner is None:  # the tag itself: what is allowed is known one level up
            return raw.get(key) if isinstance(raw, dict) else raw, info
        if isinstance(raw, dict):
            raw = raw.get(key)
        elif isinstance(raw, list) and key.isdigit():
            raw = raw[int(key)]
        info = inner
    return raw, _narrow(info, raw)


def _narrow(info: msgspec.inspect.Type, raw: Any) -> msgspec.inspect.Type:
    if isinstance(info, msgspec.inspect.UnionType) and isinstance(raw, dict):
        for each in info.types:
            if isinstance(each, msgspec.inspect.StructType) and each.tag == raw.get("id"):
                return each
    return info


def _field_names(info: Any) -> list[str]:
    if not isinstance(info, msgspec.inspect.StructType):
        return []
    tag = [info.tag_field] if info.tag_field else []
    return tag + [field.encode_name for field in info.fields]


def _allowed(info: Any) -> str:
    match info:
        case msgspec.inspect.UnionType(types=types):
            return ", ".join(filter(None, (_allowed(each) for each in types)))
        case msgspec.inspect.StructType(tag=str(tag)):
            return f'"{tag}"'
        case msgspec.inspect.StructType():
            return "a table"
        case msgspec.inspect.LiteralType(values=values):
            return ", ".join(f'"{value}"' for value in values)
        case msgspec.inspect.IntType() | msgspec.inspect.FloatType():
            whole = "whole " if isinstance(info, msgspec.inspect.IntType) else ""
            return f"a {whole}number" + _bounds(info)
        case msgspec.inspect.StrType():
            return "a text in quotes"
        case msgspec.inspect.BoolType():
            return "true or false"
        case msgspec.inspect.VarTupleType(item_type=item):
            return f"a list of {_allowed(item)}"
    return ""


def _bounds(info: Any) -> str:
    signs = (("ge", "at least"), ("gt", "above"), ("le", "at most"), ("lt", "below"))
    limits = [f"{words} {limit:g}" for name, words in signs if (limit := getattr(info, name)) is not None]
    return "".join(f", {limit}" for limit in limits)
