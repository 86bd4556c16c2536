from __future__ import annotations

import json

from driver.kube.decode import decode_frugally


def test_what_is_decoded_is_what_json_says():
    value = {
        "items": [
            {"a": {"bool": True}, "b": {"int": 1}, "c": {"int": True}, "d": {}},
            {"b": {"int": 1}, "e": [{}, None]},
        ]
    }

    decoded = decode_frugally(json.dumps(value).encode())

    assert json.dumps(decoded) == json.dumps(value)  # 1 and true are equal to Python, but not here


def test_equal_small_objects_are_one():
    first, second = decode_frugally(b'[{"memory": {"value": "1Gi"}}, {"memory": {"value": "1Gi"}}]')

    assert first["memory"] is second["memory"]
