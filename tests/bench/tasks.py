"""What is compared: a table for each task, a row for each way to do it; and what the ratios must be."""

from __future__ import annotations

from dataclasses import dataclass

BASE, OURS, PEER, ALSO = "base", "ours", "peer", "also"


@dataclass(frozen=True)
class Way:
    """A command, or two with && between them.

    `{590M/bin}` is an input (inputs.py), `{MODEL/bin}` that of the size under test, `{out}` an empty folder. The first
    word may be `cerebras-tool`, `python`, `typer` (an empty program of it) or `program` (of programs.py). `side`: the
    base of ratios, ours, a peer that does the same work, or something else that is worth a row. `clock`: the command
    itself prints the seconds.
    """

    name: str
    side: str
    command: str
    needs: tuple[str, ...] = ()
    codes: tuple[int, ...] = (0,)
    clock: bool = False


@dataclass(frozen=True)
class Task:
    """`sized`: there is a result for every size under test. `often`: short tasks get this many times the rounds."""

    name: str
    title: str
    ways: tuple[Way, ...]
    sized: bool = True
    often: int = 1


@dataclass(frozen=True)
class Goal:
    """The median of a way's ratios in one run must not exceed `limit`; `slack` seconds are taken off first.

    `to` is another way of the task; None is the best peer.
    """

    task: str
    way: str
    to: str | None
    limit: float
    slack: float = 0.0


TORCH = ("torch",)
TORCH_SAFETENSORS = ("torch", "safetensors")
EMPTY = Way("empty typer program", BASE, "typer", ("typer",))
CP = Way("cp", BASE, "cp --reflink=never {MODEL/bin} {out}/copy")
MEMORY = 120_000_000  # bytes resident, mapped pages counted, that none of our ways may exceed, except engines

START = Task(
    "start",
    "Start of the process",
    (
        EMPTY,
        Way("cerebras-tool --version", OURS, "cerebras-tool --version"),
        Way("cerebras-tool --help", OURS, "cerebras-tool --help"),
        Way("empty typer program, --help", ALSO, "typer --help", ("typer",)),
        Way("python -c pass", ALSO, "python -c pass"),
    ),
    sized=False,
    often=4,
)

TORCH_LOAD = "torch.load, mmap, weights_only"
LISTED = {"111M": "{111M/bin}", "1.3B": "{1.3B/sparse}", "13B": "{13B/sparse}", "100,000 tensors": "{100000/many}"}
INSPECT = Task(
    "inspect",
    "What is in it",
    (
        EMPTY,
        *(
            Way(f"cerebras-tool inspect, {size}", OURS, f"cerebras-tool inspect {path}")
            for size, path in LISTED.items()
        ),
        Way("cerebras-tool inspect --json, 111M", OURS, "cerebras-tool inspect --json {111M/bin}"),
        *(
            Way(f"{TORCH_LOAD}, {size}", PEER if size == "111M" else ALSO, f"program torch_load {path}", TORCH)
            for size, path in LISTED.items()
        ),
    ),
    sized=False,
    often=2,
)

CATALOGUE, UNPICKLER = "our catalogue, from the file to checked tensors", "C unpickler, restricted find_class"


def catalogue(count: int, *more: Way) -> Task:
    many, pickled = f"{{{count}/many}}", f"{{{count}/pickle}}"
    ways = (
        Way(UNPICKLER, BASE, f"program c_unpickler {pickled}", clock=True),
        Way(CATALOGUE, OURS, f"program our_catalogue {many}", clock=True),
        Way("our machine, the pickle alone", OURS, f"program our_machine {pickled}", clock=True),
        Way("zipfile, the directory alone", ALSO, f"program zip_directory {many}", clock=True),
        Way("pickletools.genops", ALSO, f"program genops {pickled}", clock=True),
        Way("fickling, load", PEER, f"program fickling_load {pickled}", ("fickling",), clock=True),
    )
    return Task(f"catalogue-{count}", f"{count:,} tensors, in one process", (*ways, *more), sized=False)


# With more than these, fickling's check gives up half way: "resource limits exceeded".
CHECKED = 10_000
CHECK = Way(
    "fickling, load and check_safety",
    ALSO,
    f"program fickling_check {{{CHECKED}/pickle}}",
    ("fickling",),
    clock=True,
)

EXTRACT = Task(
    "extract",
    "Taking apart",
    (
        CP,
        Way("cerebras-tool extract", OURS, "cerebras-tool extract -q {MODEL/bin} {out}/x"),
        Way("unzip", PEER, "unzip -q {MODEL/bin} -d {out}/x"),
        Way("7z", PEER, "7z x -bd -y -o{out}/x {MODEL/bin}"),
        Way("bsdtar", PEER, "bsdtar -xf {MODEL/bin} -C {out}"),
        Way("python -m zipfile", PEER, "python -m zipfile -e {MODEL/bin} {out}/x"),
    ),
)

SAFETENSORS = Task(
    "safetensors",
    "To safetensors, transposed matrices",
    (
        CP,
        Way("cerebras-tool convert", OURS, "cerebras-tool convert -q {MODEL/bin} {out}/x.safetensors"),
        Way(
            "torch + safetensors, mmap",
            PEER,
            "program torch_safetensors {MODEL/bin} {out}/x.safetensors mmap",
            TORCH_SAFETENSORS,
        ),
        Way(
            "torch + safetensors",
            PEER,
            "program torch_safetensors {MODEL/bin} {out}/x.safetensors no",
            TORCH_SAFETENSORS,
        ),
        Way(
            "safetensors' convert.py",
            PEER,
            "program hub_convert {MODEL/bin} {out}/x.safetensors",
            TORCH_SAFETENSORS,
        ),
        Way(
            "transformers, save_pretrained",
            PEER,
            "program transformers_save {MODEL/folder} {out}/x",
            ("transformers", *TORCH_SAFETENSORS),
        ),
    ),
)

CONTIGUOUS = Task(
    "safetensors-contiguous",
    "To safetensors, row-major matrices",
    (
        Way("cp", BASE, "cp --reflink=never {MODEL/contiguous} {out}/copy"),
        Way("cerebras-tool convert", OURS, "cerebras-tool convert -q {MODEL/contiguous} {out}/x.safetensors"),
        Way(
            "torch + safetensors, mmap",
            PEER,
            "program torch_safetensors {MODEL/contiguous} {out}/x.safetensors mmap",
            TORCH_SAFETENSORS,
        ),
    ),
)

# Encoding: what llama.cpp's converter writes on the way to it, and how llama-quantize is told.
ENCODINGS = {"f32": ("f32", None), "f16": ("f16", "F16"), "bf16": ("bf16", "BF16"), "q8_0": ("q8_0", "Q8_0"), "q4_0": ("f16", "Q4_0")}  # fmt: skip
CONVERTER, QUANTIZE = "llama.cpp's converter", "llama-quantize, from F32"


def gguf(encoding: str) -> Task:
    step, quantized = ENCODINGS[encoding]
    converted = f"program llama_convert {{LLAMA_CPP}} {{MODEL/llama}} {{out}}/{step}.gguf {step}"
    if step != encoding:
        converted += f" && llama-quantize --pure {{out}}/{step}.gguf {{out}}/x.gguf {quantized}"
    ways = [
        CP,
        Way(
            "cerebras-tool convert",
            OURS,
            f"cerebras-tool convert -q {{MODEL/bin}} {{out}}/x.gguf --dtype {encoding} --no-tokenizer",
        ),
        Way(
            CONVERTER if step == encoding else f"{CONVERTER} + llama-quantize",
            PEER,
            converted,
            ("transformers", *TORCH),
        ),
    ]
    if quantized:
        ways.append(Way(QUANTIZE, PEER, f"llama-quantize --pure {{MODEL/gguf}} {{out}}/x.gguf {quantized}"))
    return Task(f"gguf-{encoding}", f"To GGUF {encoding.upper()}", tuple(ways))


READING = "reading both, safetensors"
VERIFY = Task(
    "verify",
    "Proving it equal",
    (
        CP,
        Way(READING, ALSO, "program read_whole {MODEL/bin} {MODEL/safetensors}"),
        Way("cat of both, safetensors", ALSO, "cat {MODEL/bin} {MODEL/safetensors}"),
        Way("cerebras-tool verify, safetensors", OURS, "cerebras-tool verify -q {MODEL/bin} {MODEL/safetensors}"),
        Way("cerebras-tool verify, GGUF F32", OURS, "cerebras-tool verify -q {MODEL/bin} {MODEL/gguf}"),
        Way("cerebras-tool verify, parameters", OURS, "cerebras-tool verify -q {MODEL/bin} {MODEL/parameters}"),
        Way(
            "torch.equal, safetensors",
            PEER,
            "program torch_compare {MODEL/bin} {MODEL/safetensors}",
            TORCH_SAFETENSORS,
        ),
    ),
)

TRANSFORMERS = ("transformers", "torch")
ENGINE = Task(
    "engine",
    "512 tokens through the 111M, in one process",
    (
        Way("transformers", BASE, "program transformers_forward {111M/folder} 2", TRANSFORMERS, clock=True),
        Way("our engine", OURS, "program our_forward {111M/folder} 2", clock=True),
    ),
    sized=False,
)
ENGINE_PROCESS = Task(
    "engine-process",
    "512 tokens through the 111M, as whole processes",
    (
        Way("transformers", BASE, "program transformers_forward {111M/folder} 1", TRANSFORMERS),
        Way("our engine", OURS, "program our_forward {111M/folder} 1"),
    ),
    sized=False,
)

SCAN = Task(
    "scan",
    "What it asks for",
    (
        EMPTY,
        Way("cerebras-tool scan --no-fickling", OURS, "cerebras-tool scan --no-fickling {111M/bin}"),
        Way("cerebras-tool scan", OURS, "cerebras-tool scan {111M/bin}"),
        Way("picklescan", PEER, "picklescan -p {111M/bin}", ("picklescan",)),
        Way("fickling --check-safety", PEER, "fickling --check-safety {111M/pickle}", ("fickling",), (0, 1)),
        Way("modelscan", PEER, "modelscan -p {111M/bin}", ("modelscan",)),
    ),
    sized=False,
    often=2,
)

TASKS = {
    task.name: task
    for task in (
        START, INSPECT, catalogue(CHECKED, CHECK), catalogue(100_000), EXTRACT, SAFETENSORS, CONTIGUOUS, *map(gguf, ENCODINGS), VERIFY, ENGINE,
        ENGINE_PROCESS, SCAN,
    )
}  # fmt: skip

TYPER = EMPTY.name
GOALS = (
    Goal("start", "cerebras-tool --version", TYPER, 1.2),
    Goal("start", "cerebras-tool --help", TYPER, 1.3),
    Goal("inspect", "cerebras-tool inspect, 111M", TYPER, 1.6),
    Goal("inspect", "cerebras-tool inspect, 111M", f"{TORCH_LOAD}, 111M", 1 / 6),
    Goal("inspect", "cerebras-tool inspect, 13B", TYPER, 1.6, slack=0.1),
    Goal("catalogue-100000", CATALOGUE, UNPICKLER, 3),
    Goal("catalogue-100000", CATALOGUE, "fickling, load", 1 / 5),
    Goal("catalogue-10000", CATALOGUE, UNPICKLER, 3),
    Goal("catalogue-10000", CATALOGUE, CHECK.name, 1 / 20),
    Goal("extract", "cerebras-tool extract", "cp", 1.6),
    *(Goal("extract", "cerebras-tool extract", peer, 1) for peer in ("unzip", "7z", "bsdtar", "python -m zipfile")),
    Goal("safetensors", "cerebras-tool convert", "cp", 2.5),
    Goal("safetensors", "cerebras-tool convert", None, 1 / 4),
    Goal("safetensors-contiguous", "cerebras-tool convert", "cp", 1.5),
    Goal("gguf-f32", "cerebras-tool convert", "cp", 1.6),
    Goal("gguf-f32", "cerebras-tool convert", CONVERTER, 1 / 4),
    Goal("gguf-f16", "cerebras-tool convert", "cp", 2.5),
    Goal("gguf-f16", "cerebras-tool convert", CONVERTER, 1 / 4),
    Goal("gguf-bf16", "cerebras-tool convert", "cp", 2.5),
    Goal("gguf-bf16", "cerebras-tool convert", CONVERTER, 1 / 4),
    Goal("gguf-q8_0", "cerebras-tool convert", CONVERTER, 1 / 3),
    Goal("gguf-q8_0", "cerebras-tool convert", QUANTIZE, 1),
    Goal("gguf-q4_0", "cerebras-tool convert", f"{CONVERTER} + llama-quantize", 1 / 3),
    Goal("gguf-q4_0", "cerebras-tool convert", QUANTIZE, 1),
    Goal("verify", "cerebras-tool verify, safetensors", READING, 2),
    Goal("engine", "our engine", "transformers", 1.2),
    Goal("engine-process", "our engine", "transformers", 1 / 3),
    Goal("scan", "cerebras-tool scan --no-fickling", TYPER, 1.6),
    Goal("scan", "cerebras-tool scan --no-fickling", "modelscan", 1),
)
