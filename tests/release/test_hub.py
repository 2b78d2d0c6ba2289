"""A release as a model repository. P1 plain PEFT loads the folder, with its base or by itself, and gets the adapter's
tensors; P2 the folder holds what was released, byte for byte, and no answers to validation problems; P3 the card says
domains, figures and prompts, and how to load it; P4 what is uploaded is what is written, into a private repository
unless asked otherwise; P5 a refusal of the hub and a folder with something else are sentences."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import constants
from peft import AutoPeftModelForCausalLM, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from fst.cli import main
from fst.models.adapter import WEIGHTS, adapter_state, lora_config, save_adapter
from support.release_toys import ToyProject


@pytest.fixture
def project(tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> ToyProject:
    """A release whose adapter is a real one, of a tiny model."""
    monkeypatch.chdir(tmp_path)
    project = ToyProject(tmp_path)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model_dir), lora_config(4, 8))
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    save_adapter(model, project.adapter)
    project.release(project.candidate("zeta", project.base(), 0.5, best="turn ``` around"))
    return project


def written(project: ToyProject) -> Path:
    assert main(["push", "my-org/turning", "--to", "out"]) == 0
    return project.root / "out"


def test_p1_plain_peft_loads_it(project: ToyProject, tiny_model_dir: Path) -> None:
    folder = written(project)
    expected = load_file(project.adapter / WEIGHTS)
    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    for model in (PeftModel.from_pretrained(base, str(folder)), AutoPeftModelForCausalLM.from_pretrained(folder)):
        found = adapter_state(model)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_p2_p3_what_is_written(project: ToyProject, tiny_model_dir: Path) -> None:
    folder = written(project)
    bundle = project.releases.manifest(str(project.releases.channel("prod").bundle))
    names = {"adapter_config.json", WEIGHTS, "prompts.json", "evaluation.json", "manifest.json", "README.md"}
    assert {file.name for file in folder.iterdir()} == names
    assert json.loads((folder / "manifest.json").read_text()) == bundle
    _, head, text = (folder / "README.md").read_text().split("---\n", 2)
    facts = yaml.safe_load(head)
    assert "base_model" not in facts, "a folder of this machine is no model of the hub"
    assert (facts["library_name"], facts["model-index"][0]["name"]) == ("peft", "turning")
    (result,) = facts["model-index"][0]["results"]
    assert (result["dataset"]["name"], result["metrics"][0]["value"]) == ("zeta", 0.5)
    assert "| zeta | `lab/reverse` | 0.500 ± 0.010 | 0.250 | 12.5 |" in text
    assert "````\nturn ``` around\n````" in text
    assert f"vllm serve {tiny_model_dir} --enable-lora --max-lora-rank 4 --lora-modules turning=my-org/turning" in text


@dataclass
class Hub:
    """The part of the hub's API that an upload uses. `files` are those of the commit."""

    refuses: bool = False
    made: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    url: str = ""

    def answer(self, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        if self.refuses:
            return 403, {"error": "this token may not write"}
        if path.endswith("/repos/create"):
            self.made.append(json.loads(body))
            return 200, {"url": f"{self.url}/my-org/turning"}
        if "/preupload/" in path:
            asked = json.loads(body)["files"]
            return 200, {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]}
        if "/commit/" in path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return 200, {"commitUrl": f"{self.url}/my-org/turning/commit/abc", "commitOid": "abc"}
        return 200, {"errors": [], "warnings": []}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = self.headers["Content-Length"]
            body = self.rfile.read(int(length)) if length else b"".join(self._chunks())
            status, values = hub.answer(self.path, body)
            content = json.dumps(values).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _chunks(self) -> Iterator[bytes]:
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)  # HF_ENDPOINT is read when the library is imported
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    yield hub
    server.shutdown()
    server.server_close()


def test_p4_what_is_uploaded_is_what_is_written(
    project: ToyProject, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = written(project)
    assert main(["push", "my-org/turning"]) == 0, capsys.readouterr().err
    assert hub.files == {file.name: file.read_bytes() for file in folder.iterdir()}
    assert hub.made[0]["visibility"] == "private"
    assert f"uploaded: {hub.url}/my-org/turning/commit/abc" in capsys.readouterr().out
    assert main(["push", "my-org/turning", "--public"]) == 0
    assert hub.made[1]["visibility"] == "public"


def test_p5_what_cannot_be_done_is_said(project: ToyProject, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.refuses = True
    assert main(["push", "my-org/turning"]) == 3
    said = capsys.readouterr().err
    assert f"{hub.url} did not take my-org/turning" in said
    assert "write the same to a folder with --to FOLDER" in said
    assert main(["push", "turning", "--to", "out"]) == 2
    assert "'turning' is no name of a repository; write ORG/NAME" in capsys.readouterr().err
    (project.root / "notes").mkdir()
    (project.root / "notes" / "mine.txt").write_text("mine")
    assert main(["push", "my-org/turning", "--to", "notes"]) == 2
    assert "holds something else" in capsys.readouterr().err
    assert (project.root / "notes" / "mine.txt").read_text() == "mine"
