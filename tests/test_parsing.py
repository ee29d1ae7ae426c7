"""JSON and YAML within bounds: what is refused takes one line, little time and little memory."""

from __future__ import annotations

import os
import time

import pytest

from perturbfm_core.config import canonical_json, load_yaml
from perturbfm_core.errors import ConfigError, DatasetError, StoreError
from perturbfm_core.parsing import MAX_DEPTH, open_regular, parse_json, parse_yaml, read_text
from perturbfm_core.store.atomic import read_json

DIGITS = "9" * 100_000


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("day: 2020-01-01", {"day": "2020-01-01"}),
        ("at: 2001-12-14t21:59:43.10-05:00", {"at": "2001-12-14t21:59:43.10-05:00"}),
        ("a: [1, -2, 0.5, true, null, x]", {"a": [1, -2, 0.5, True, None, "x"]}),
        ("1: a\n2: b", {1: "a", 2: "b"}),
        (
            "{gate: off, b: [NO, On, yes, y, n], no: 1}",
            {"gate": "off", "b": ["NO", "On", "yes", "y", "n"], "no": 1},
        ),
        ("off", "off"),
        ("[True, FALSE, false]", [True, False, False]),
        ("{a: {<<: {b: 1, c: 3}, b: 2}}", {"a": {"b": 2, "c": 3}}),
        ('a: "' + "9" * 2000 + '"', {"a": "9" * 2000}),
        ("", None),
        ("[" * MAX_DEPTH + "]" * MAX_DEPTH, None),
    ],
)
def test_yaml(text, value):
    found = parse_yaml(text, "x.yaml")
    assert found == value if value is not None or not text else isinstance(found, list)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x [1]\nb: [*x, *x]", r"anchors and aliases are not read \(line 1\)"),
        ("a: 1\nb: &x 2", r"anchors and aliases are not read \(line 2\)"),
        ("!!python/object/apply:os.system ['x']", "tags such as"),
        ("a: !!binary aGVsbG8=", "tags such as"),
        ("a: ! 1", "tags such as ! are not read"),
        ("a: 1\nb: {c: 1, c: 2}", "'c' occurs twice in one table"),
        ("[" * (MAX_DEPTH + 1), f"more than {MAX_DEPTH} levels deep"),
        ("- " * 5000 + "x", f"more than {MAX_DEPTH} levels deep"),
        ("{a: " * 20_000, f"more than {MAX_DEPTH} levels deep"),
        (f"a: {DIGITS}", r"9999\.\.\. \(100000 characters\) is beyond 64 bits"),
        ("a: 0x" + "f" * 100_000, "is beyond 64 bits"),
        ("a: 18446744073709551616", "beyond 64 bits"),
        ("a: 1" + ":59" * 5000, "is beyond 64 bits"),
        ("a: .inf", "inf is not finite"),
        ("a: [.nan]", "nan is not finite"),
        ('a: "\\0"', "holds NUL"),
        ("a: 0b_", "invalid literal"),
        ("a\n---\nb", "expected a single document"),
        ("? [a]\n: 1", "unhashable key"),
        ("a: [", "x.yaml is not valid YAML"),
        ("x" * (1 << 21), "at most 1048576"),
    ],
)
def test_yaml_that_is_refused(text, message):
    before = time.process_time()
    with pytest.raises(ConfigError, match=message) as caught:
        parse_yaml(text, "x.yaml")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert time.process_time() - before < 20


def test_a_few_hundred_bytes_of_aliases_cost_nothing(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    (tmp_path / "bomb.yaml").write_text("\n".join(lines))
    before = time.process_time()
    with pytest.raises(ConfigError, match=r"bomb\.yaml is not valid YAML: anchors and aliases are not read"):
        load_yaml(tmp_path / "bomb.yaml")
    assert time.process_time() - before < 20


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "'c' occurs twice in one table"),
        ("[NaN]", "NaN is no number of JSON"),
        ('{"a": -Infinity}', "-Infinity is no number of JSON"),
        ("[1e999]", "1e999 is not finite"),
        (f"[{DIGITS}]", r"\(100000 characters\) is beyond 64 bits"),
        ("[-18446744073709551616]", "is beyond 64 bits"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), f"more than {MAX_DEPTH} levels deep"),
        ("[" * 100_000, f"more than {MAX_DEPTH} levels deep"),
        ('{"a":' * 5000 + "1" + "}" * 5000, f"more than {MAX_DEPTH} levels deep"),
        ('["\\ud800"]', "holds half a character"),
        ('{"\\udc00": 1}', "holds half a character"),
        ('["a\\u0000b"]', "holds NUL"),
        ("", "Expecting value"),
        ("[1, 2", "x.json is not valid JSON"),
    ],
)
def test_json_that_is_refused(text, message):
    with pytest.raises(StoreError, match=message) as caught:
        parse_json(text, "x.json", StoreError)
    assert "\n" not in str(caught.value)


def test_json_of_every_kind_of_value():
    text = '{"a": [1, -2.5, true, null, "x", "\\ud83d\\ude00", 18446744073709551615], "b": {}}'
    assert parse_json(text, "x") == {"a": [1, -2.5, True, None, "x", "😀", 2**64 - 1], "b": {}}


def test_text_with_a_byte_order_mark(tmp_path):
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        (tmp_path / "x.json").write_text('["ä"]', encoding=encoding)
        assert read_json(tmp_path / "x.json") == ["ä"]
    (tmp_path / "x.json").write_bytes(b'["\xe4"]')
    with pytest.raises(StoreError, match=r"x\.json is not UTF-8 text .* at byte 2"):
        read_json(tmp_path / "x.json")


def test_what_is_no_file_is_not_waited_for(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name, message in (
        ("folder", "folder is a folder, not a file"),
        ("pipe", "pipe is a pipe or device"),
        ("loop", "loop cannot be opened .*symbolic links"),
        ("zero", "zero is a pipe or device"),
        ("gone", "gone does not exist"),
    ):
        with pytest.raises(DatasetError, match=message):
            open_regular(tmp_path / name, DatasetError)


def test_a_file_of_gigabytes_is_not_read(tmp_path):
    with (tmp_path / "x.json").open("wb") as file:
        file.truncate(3 << 30)
    with pytest.raises(ConfigError, match=r"x\.json has 3221225472 bytes, too many"):
        read_text(tmp_path / "x.json")


@pytest.mark.parametrize("value", [2**60, float("nan"), {"a": [float("inf")]}, "\ud800", {1: 2}])
def test_what_has_no_canonical_form_is_refused(value):
    with pytest.raises(ConfigError, match="no canonical form"):
        canonical_json(value)
