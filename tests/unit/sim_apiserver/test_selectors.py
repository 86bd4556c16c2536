import pytest

from driver.sim.apiserver import StatusError
from driver.sim.apiserver.resources import PODS
from driver.sim.apiserver.selectors import match_label_selector, parse_fields, parse_labels

LABELS = {"app": "web", "tier": "front", "example.com/n": "7"}


@pytest.mark.parametrize(
    ("selector", "selected"),
    [
        ("app=web", True),
        ("app==web,tier=front", True),
        ("app!=web", False),
        ("nope!=web", True),
        ("app in (web, db)", True),
        ("app notin (web, db)", False),
        ("nope notin (web)", True),
        ("app", True),
        ("!app", False),
        ("!nope", True),
        ("app in (web),tier notin (back),!nope", True),
    ],
)
def test_label_selectors(selector: str, selected: bool) -> None:
    predicate = parse_labels(selector)
    assert predicate is not None
    assert predicate(LABELS) is selected


@pytest.mark.parametrize("selector", ["app in web", "a b", "=x", "app in (a", "a=b=c"])
def test_a_malformed_label_selector_is_a_bad_request(selector: str) -> None:
    with pytest.raises(StatusError) as refusal:
        parse_labels(selector)
    assert refusal.value.code == 400


def test_field_selectors_know_only_some_fields() -> None:
    predicate = parse_fields("spec.nodeName=a", PODS)
    assert predicate is not None
    assert predicate({"spec": {"nodeName": "a"}})
    assert not predicate({})
    with pytest.raises(StatusError, match=r"field label not supported for v1, Kind=Pod: spec\.foo"):
        parse_fields("spec.foo=a", PODS)


def test_an_empty_selector_selects_everything() -> None:
    assert parse_labels("") is None
    assert parse_fields("", PODS) is None


def test_label_selector_objects() -> None:
    assert match_label_selector({"matchLabels": {"app": "web"}}, LABELS)
    assert match_label_selector({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["db"]}]}, LABELS)
    assert not match_label_selector({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}, LABELS)
