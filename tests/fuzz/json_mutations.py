"""Damage to JSON: of its structure, of its values, of its text."""

import copy
import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.mutations import damaged

_Draw = st.DrawFn
_Path = tuple[str | int, ...]

# Written into the text as they stand: what json.dumps cannot write.
_RAW = (
    *("NaN", "Infinity", "-Infinity", "1e400", "-1e400", "-0", "1E2", "01", "1_0", "'a'"),
    *("9" * 5000, "[" * 100_000, '{"a":' * 3000 + "1" + "}" * 3000, '"\\ud800"', '"\\u0000"'),
    *('"\x1b[31m"', '"\\u001b[2J\\u202e"', '"a\\nb"', "undefined", '{"a": 1, "a": 2}'),
)
_SCALARS = st.sampled_from(
    [
        *(None, True, False, 0, 1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 32, 100, -1, -(2**31), 2**31),
        *(2**32, 2**63, 2**64, 10**6, 10**9, 10**12, 10**30, 10**400, 0.0, 0.5, 1.0, 1.5, 16.0),
        *(-0.5, 1e-12, 1e-300, 1e30, 1e308, "", " ", "x", "0", "16", "null", "x" * 100_000, "é"),
        *("../../etc/passwd", "/dev/stdin", "a/b", "true", [], {}, [[]], [None], {"": None}),
    ]
)
_VALUES = st.one_of(_SCALARS, st.integers(), st.floats(allow_nan=False), st.text(max_size=6))
_CHANGES = (*["replace"] * 8, "drop", "rename", "add", "double", "swap", "nest")
_MARK = "\N{PILE OF POO}%d\N{PILE OF POO}"


@st.composite
def mutated_json(draw: _Draw, sound: dict[str, Any], values: st.SearchStrategy[Any]) -> bytes:
    """Return the bytes of a JSON file, with a few changes; none of them is a possibility too.

    Args:
        draw: Of Hypothesis.
        sound: The content of the file.
        values: What stands in such files elsewhere; put in any place.
    """
    content: Any = copy.deepcopy(sound)
    raw: list[str] = []
    for _ in range(draw(st.sampled_from([0, 1, 1, 1, 1, 2, 3]))):
        content = _mutate(draw, content, raw, values)
    indent = draw(st.sampled_from([None, 2]))
    text = json.dumps(content, indent=indent, ensure_ascii=draw(st.booleans()))
    for number, token in enumerate(raw):
        text = text.replace(json.dumps(_MARK % number), token).replace(f'"{_MARK % number}"', token)
    if draw(st.integers(0, 9)):
        return text.encode("utf-8", "surrogatepass")
    encoding = draw(st.sampled_from(["utf-8"] * 4 + ["utf-8-sig", "utf-16", "utf-32", "latin-1"]))
    text = draw(st.sampled_from(["", "", "", " ", "{}", "\0", "//", "\n"])) + text
    return draw(damaged(text.encode(encoding, "replace")))


def _mutate(draw: _Draw, content: Any, raw: list[str], values: st.SearchStrategy[Any]) -> Any:
    paths = list(_paths(content))
    path = draw(st.sampled_from(paths))
    if not path:
        return _value(draw, raw, values) if draw(st.integers(0, 9)) == 0 else content
    parent = _at(content, path[:-1])
    key = path[-1]
    old = parent[key]
    match draw(st.sampled_from(_CHANGES)):
        case "replace" if draw(st.booleans()):
            parent[key] = copy.deepcopy(_near(draw, old))
        case "replace":
            parent[key] = _value(draw, raw, values)
        case "drop":
            del parent[key]
        case "rename" if isinstance(parent, dict):
            new = draw(st.sampled_from([f"{key}_", str(key).upper(), "", f" {key}", "x"]))
            parent[new] = parent.pop(key)
        case "add" if isinstance(parent, dict):
            parent[draw(st.text(max_size=5))] = _value(draw, raw, values)
        case "add":
            parent.insert(int(key), _value(draw, raw, values))
        case "double" if isinstance(parent, dict):
            # A second key of the same name, which only the text can have.
            raw.append(f"{json.dumps(old)}, {json.dumps(key)}: {json.dumps(draw(_VALUES))}")
            parent[key] = _MARK % (len(raw) - 1)
        case "double":
            parent.insert(int(key), old)
        case "swap":
            other = draw(st.sampled_from(paths))
            parent[key] = copy.deepcopy(_at(content, other))
        case "nest":
            parent[key] = draw(st.sampled_from([[old], {"a": old}, [old, old], str(old)]))
    return content


def _near(draw: _Draw, old: Any) -> Any:
    """Return a value of the type that is expected, or one that may pass for it."""
    match old:
        case bool() | None:
            return draw(st.sampled_from([True, False, None, 0, 1, "true"]))
        case int() if abs(old) < 2**53:
            sizes = st.sampled_from([0, 10**6, 2**31, 2**32, 2**63, 2**64, 10**30, 10**400])
            near = st.sampled_from([old - 1, old + 1, 2 * old, old // 2, -old, old + 0.5, str(old)])
            return draw(near | sizes | st.just(float(old)) | st.just(bool(old)))
        case float():
            return draw(st.sampled_from([-old, 2 * old, 0.0, 0, 1, 1e-300, 1e300, 1e12, str(old)]))
        case str():
            texts = [old[:-1], f"{old} ", old.upper(), old * 2, f"{old}\0", f"./{old}", ""]
            return draw(st.sampled_from(texts))
        case list():
            return draw(st.sampled_from([old[:-1], old[::-1], [*old, *old[:1]], old[:1] * 2, []]))
        case dict():
            return draw(st.sampled_from([{}, dict(reversed(old.items())), list(old), [old]]))
    return draw(_VALUES)


def _value(draw: _Draw, raw: list[str], values: st.SearchStrategy[Any]) -> Any:
    if draw(st.integers(0, 5)) == 0:
        raw.append(draw(st.sampled_from(_RAW)))
        return _MARK % (len(raw) - 1)
    return copy.deepcopy(draw(values) if draw(st.booleans()) else draw(_VALUES))


def _paths(content: Any, path: _Path = ()) -> Iterator[_Path]:
    """Yield the place of every value, outermost first; of a long list or object, only some."""
    yield path
    items: Any = ()
    if isinstance(content, dict):
        items = list(content.items())
    elif isinstance(content, list):
        items = list(enumerate(content))
    if len(items) > 40:
        items = items[:10] + items[-10:]
    for key, value in items:
        yield from _paths(value, (*path, key))


def _at(content: Any, path: _Path) -> Any:
    for key in path:
        content = content[key]
    return content


def changed_keys(said: Any, content: Any, key: str = "") -> Iterator[str]:
    """Yield the innermost keys whose values are not those of the sound file."""
    if isinstance(said, dict) and isinstance(content, dict):
        for name in said.keys() | content.keys():
            yield from changed_keys(said.get(name), content.get(name), name)
    elif json.dumps(said) != json.dumps(content):
        yield key
