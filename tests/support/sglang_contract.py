"""Holds requests against SGLang's own types. Runs in SGLang's environment: a list of requests comes in on
stdin, ``[[method, path, body], …]``, and what is wrong with them goes out on stdout, both as JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def main() -> None:
    from sglang.srt.entrypoints.http_server import app

    description = app.openapi()
    problems: list[str] = []
    for method, path, body in json.load(sys.stdin):
        for problem in problems_of(description, method.lower(), path, body):
            problems.append(f"{method} {path} {json.dumps(body)[:200]}: {problem}")
    json.dump(problems, sys.stdout)


def problems_of(description: dict[str, Any], method: str, path: str, body: Any) -> list[str]:
    """What SGLang would refuse, and what it would pass over in silence."""
    from jsonschema import Draft202012Validator

    operation = description["paths"].get(path, {}).get(method)
    if operation is None:
        return ["there is no such endpoint"]
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    schema = content.get("schema")
    if schema is None:
        return ["a body is sent, and none is read"] if body else []
    whole = {"components": description["components"], **schema}
    found = [error.message[:200] for error in Draft202012Validator(whole).iter_errors(body)]
    name = schema.get("$ref", "").rpartition("/")[2]
    known = description["components"]["schemas"].get(name, {}).get("properties")
    if known is not None:
        found += [f"{key} is read by nobody" for key in body if key not in known]
    return found + (problems_of_generation(body) if path == "/generate" else [])


def problems_of_generation(body: dict[str, Any]) -> list[str]:
    """As the server builds its own objects from the body."""
    from sglang.srt.entrypoints.api_contract import generate_contract_error
    from sglang.srt.managers.io_struct import GenerateReqInput
    from sglang.srt.sampling.sampling_params import SamplingParams

    refused = generate_contract_error(body)
    if refused is not None:
        return [refused]
    try:
        GenerateReqInput(**body).normalize_batch_and_arguments()
        params = SamplingParams(**body["sampling_params"])
        params.normalize(None)
        params.verify(vocab_size=64)
    except (TypeError, ValueError) as error:
        return [str(error)]
    return []


if __name__ == "__main__":
    main()
