"""Every route, fuzzed from the server's own OpenAPI document: no 500, no leak, nothing undocumented, no hang."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

pytest.importorskip("fastapi", reason="the `server` extra is not installed")
pytest.importorskip("schemathesis", reason="schemathesis is not installed")
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from server_tools import LocalServer

pytestmark = pytest.mark.slow
EXAMPLES = int(os.environ.get("VIDEOGEN_TEST_EXAMPLES", "40"))
SECONDS = 20.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    folder = tmp_path_factory.mktemp("fuzz")
    with LocalServer(
        folder / "data", None, num_workers=0, rate_limit=1e9, max_queue=10**6, decode_seconds=10
    ) as running:
        running.submit()
        yield running


def test_fuzz(server: LocalServer) -> None:
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    operations = [
        result.ok() for result in schema.get_all_operations() if not result.ok().path.endswith("/events")
    ]  # a stream without end is none of a fuzzer's business
    assert len(operations) > 25
    counts: dict[int, int] = {}
    slowest = 0.0
    for operation in operations:

        @settings(
            max_examples=EXAMPLES, deadline=None, phases=[Phase.explicit, Phase.generate], database=None, derandomize=True,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        def check(case) -> None:  # type: ignore[no-untyped-def]
            nonlocal slowest
            started = time.monotonic()
            reply = case.call(base_url=server.url, timeout=SECONDS)
            slowest = max(slowest, time.monotonic() - started)
            counts[reply.status_code] = counts.get(reply.status_code, 0) + 1
            assert reply.status_code < 500 or (reply.status_code == 503 and case.path == "/ready"), reply.text
            for leak in ("Traceback", "sqlalchemy", "/videogen/server", "site-packages", str(server.settings.data)):
                assert leak not in reply.text, leak
            case.validate_response(
                reply,
                checks=[
                    schemathesis.specs.openapi.checks.status_code_conformance,
                    schemathesis.specs.openapi.checks.content_type_conformance,
                    schemathesis.specs.openapi.checks.response_schema_conformance,
                ],
            )

        given(case=operation.as_strategy())(check)()
    print(f"{sum(counts.values())} requests: {dict(sorted(counts.items()))}; slowest {slowest:.2f} s")
    assert server.http.get("/health").status_code == 200
