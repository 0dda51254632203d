"""The Java client computes with our parameters folders: greedy ids are those of our own engine.

CEREBRAS_TOOL_JAVA_CLIENT names a checkout of huplay/demo-gpt-java, and a JDK must be there. The build of April 2023
(3d210e7) reads both forms, the newest only the named one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from converter.conversion.extract import extract
from converter.inference.engine import compute
from converter.opening import open_checkpoint
from converter.sample import write_sample

CLIENT = os.environ.get("CEREBRAS_TOOL_JAVA_CLIENT")
PROMPT = [5, 17, 40, 2]
COUNT = 12
# The names of what is called differ between the builds, so they are looked up.
DRIVER = """
import ai.demo.gpt.*; import ai.demo.gpt.config.*; import ai.demo.gpt.position.*; import ai.demo.gpt.tokenizer.*;
import java.lang.reflect.*; import java.util.*;

public class Ids {
    public static void main(String... args) throws Exception {
        Field out = App.class.getField("OUT");
        if (!Modifier.isFinal(out.getModifiers())) out.set(null, System.out);
        Constructor<?> made = Arguments.class.getConstructors()[0];
        Object[] given = {args[1], args[0], Integer.parseInt(args[2]) - 1, 1, false};
        Settings settings = new Settings((Arguments) made.newInstance(Arrays.copyOf(given, made.getParameterCount())));
        ParameterReader reader = new ParameterReader(settings);
        Tokenizer tokenizer = (Tokenizer) Proxy.newProxyInstance(Ids.class.getClassLoader(),
            new Class<?>[] {Tokenizer.class}, (proxy, method, arguments) -> "");
        Transformer model = new Transformer(settings, tokenizer, reader, PositionEmbedder.getInstance(settings, reader));
        List<Integer> tokens = new ArrayList<>();
        for (String token : args[3].split(",")) tokens.add(Integer.parseInt(token));
        for (Method method : Transformer.class.getMethods())
            if (method.getReturnType() == List.class)
                System.out.println("\\nIDS " + method.invoke(model, tokens, 0));
    }
}
"""

pytestmark = pytest.mark.skipif(
    CLIENT is None or shutil.which("javac") is None, reason="needs CEREBRAS_TOOL_JAVA_CLIENT and a JDK"
)


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client and the driver, compiled."""
    folder = tmp_path_factory.mktemp("java")
    (folder / "Ids.java").write_text(DRIVER)
    parts = [Path(CLIENT or "") / part for part in ("app/src/main", "util/common/src", "util/standard/src")]
    files = [str(file) for part in parts for file in sorted(part.rglob("*.java"))]
    subprocess.run(["javac", "-nowarn", "-d", str(folder), *files, str(folder / "Ids.java")], check=True)
    return folder


def ids(classes: Path, models: Path, name: str) -> list[int]:
    """What the client generates; nothing if it fails."""
    prompt = ",".join(map(str, PROMPT))
    command = ["java", "-Xmx512m", "-cp", str(classes), "Ids", str(models), name, str(COUNT), prompt]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    line = next((line for line in done.stdout.splitlines() if line.startswith("IDS ")), "IDS []")
    return [int(number) for number in line[5:-1].split(",") if number]


def source(kind: str, folder: Path) -> Path:
    """The published form, the form of two shards whose matrices lie as [in, out], or what programs save today."""
    if kind in ("tiny", "tiny-13B"):
        write_sample(folder, kind)
        return folder
    torch.manual_seed(3)
    sizes = {"n_layer": 2, "n_head": 4, "n_embd": 64, "n_positions": 32, "vocab_size": 99, "initializer_range": 0.3}
    model = GPT2LMHeadModel(GPT2Config(**sizes, activation_function="gelu_new", eos_token_id=98))
    model.save_pretrained(folder, max_shard_size="200kB" if kind == "shards" else "5GB")
    if kind == "state dict":
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    return folder


@pytest.mark.parametrize("form", ["named", "storages"])
@pytest.mark.parametrize("kind", ["tiny", "tiny-13B", "safetensors", "shards", "state dict"])
def test_the_client_generates_what_our_engine_does(kind: str, form: str, classes: Path, tmp_path: Path) -> None:
    catalogue = open_checkpoint(source(kind, tmp_path / "source"))
    expected = compute(catalogue, activation="tanh").greedy(PROMPT, COUNT)
    end = catalogue["transformer.wte.weight" if kind != "tiny-13B" else "wte.weight"].shape[0] - 1
    expected = expected[: expected.index(end) + 1] if end in expected else expected  # the client stops there

    report = extract(catalogue, tmp_path / "models" / "x" / "parameters", form=form)

    # Only the published form lies as the client reads it; of the others it would take wrong thirds.
    assert (report.properties is not None) == (form == "named" or kind == "tiny")
    if report.properties is not None:
        shutil.move(report.properties, tmp_path / "models" / "x" / "model.properties")
        merged = "merged.qkv = true" in (tmp_path / "models" / "x" / "model.properties").read_text()
        newest = (
            "isMergedQKV" in (Path(CLIENT or "") / "app/src/main/java/ai/demo/gpt/config/Settings.java").read_text()
        )
        assert ids(classes, tmp_path / "models", "x") == ([] if merged and newest else expected)
