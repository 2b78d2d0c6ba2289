"""Print the JSON schema of params.yaml: python -m fst.config > params.schema.json"""

from __future__ import annotations

import json

from fst.config import Params


def schema() -> str:
    """The JSON schema of params.yaml and params/*.yaml, as the file params.schema.json holds it."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "params.yaml of Fast-Slow Training"}
    return json.dumps(head | Params.model_json_schema(by_alias=True) | head, indent=1) + "\n"


if __name__ == "__main__":
    print(schema(), end="")
