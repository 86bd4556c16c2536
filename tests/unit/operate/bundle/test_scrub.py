"""What is taken out of a text, and what has to stay for it to be of use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from driver.operate.bundle.scrub import known_secrets, scrub

if TYPE_CHECKING:
    from pathlib import Path

KEY = "-----BEGIN EC PRIVATE KEY-----\nhunter2hunter2\n-----END EC PRIVATE KEY-----"


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer hunter2",
        '{"authorization": "bearer hunter2", "more": 1}',
        "Authorization: Basic hunter2==",
        '{"token": "hunter2"}',
        '{\\"token\\": \\"hunter2\\"}',
        "{'clientSecret': 'hunter2'}",
        "AWS_SECRET_ACCESS_KEY=hunter2",
        "--password hunter2",
        "--api-key=hunter2",
        "https://me:hunter2@example.com/path",
        "got eyJhbGciOiJSUzI1NiJ9.hunter2.hunter2 from it",
        KEY,
        KEY.replace("\n", "\\n"),
        KEY.partition("-----END")[0],
        "opaque AbCdEfGhIjKlMnOp0123456789hunter2QrStUv of somebody",
    ],
)
def test_what_looks_like_a_secret_is_taken_out(text: str) -> None:
    assert "hunter2" not in scrub(text, ())


def test_a_known_secret_is_taken_out_wherever_it_is() -> None:
    assert scrub("one hunter2, and hunter2s", {"hunter2"}) == "one [removed], and [removed]s"


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-02T03:04:05.678Z INFO    prepared claim=default/one-gpu uid=48f7e160-9d11-599e-9a08-10c80fd13c87",
        "GPU-f65ec4d9-9d11-599e-9a08-10c80fd13c87 MIG-f65ec4d9-9d11-599e-9a08-10c80fd13c87",
        "/var/lib/kubelet/plugins/gpu.nvidia.com/claims/.GPU-f65ec4d9-9d11-599e-9a08-10c80fd13c87.lock",
        "k8s.gpu.nvidia.com-claim_48f7e160-9d11-599e-9a08-10c80fd13c87.json",
        "sha256:dc501951083943d8747179ce04fbe4ff8bfa232845a124d8167d62b15e27c53f",
        "the API server answered 503: http2: client connection lost, tried again in 3.2 s",
        "FailedPrepareDynamicResources: libnvidia-ml.so.570.124.06 PCI 0000:1b:00.0 570.124.06",
    ],
)
def test_what_a_reader_needs_stays(text: str) -> None:
    assert scrub(text, ()) == text


def test_known_are_telling_variables_the_credentials_of_a_kubeconfig_and_tokens(tmp_path: Path) -> None:
    kubeconfig, token = tmp_path / "config", tmp_path / "token"
    kubeconfig.write_text(
        "{clusters: [{name: public}], users: [{name: u, user: {token: of-a-user, password: 12345678}}]}"
    )
    token.write_text("of-a-pod\n")
    environment = {"DB_PASSWORD": "of-a-database", "SSH_KEY": "of-a-shell", "HOME": "/home/somebody", "TOKEN": "ab"}

    known = known_secrets(environment=environment, kubeconfig=kubeconfig, tokens=[token, tmp_path / "none"])

    assert known == {"of-a-user", "12345678", "of-a-pod", "of-a-database", "of-a-shell"}


def test_a_kubeconfig_that_cannot_be_read_is_no_reason_to_fail(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "config"
    kubeconfig.write_text("{")

    assert known_secrets(environment={}, kubeconfig=kubeconfig, tokens=[]) == frozenset()
