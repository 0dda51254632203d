"""Runs that are killed, or reach the end of the disk or a limit on file sizes, at many moments: the target is absent or complete, and --resume completes it."""

import random
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from converter.conversion.convert import convert
from converter.opening import open_checkpoint

ROOT = Path(__file__).parent.parent.parent
COMMAND = [sys.executable, "-m", "converter", "convert", "--quiet"]
OUTPUTS = {
    "x.safetensors": [],
    "x.gguf": ["--dtype", "q8_0"],
    "folder": ["--to", "safetensors", "--max-shard-size", "200kB"],
}

pytestmark = pytest.mark.large


@pytest.fixture(scope="module")
def whole(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    source = open_checkpoint(tiny)
    convert(source, folder / "x.safetensors")
    convert(source, folder / "x.gguf", dtype="q8_0")
    convert(source, folder / "folder", to="safetensors", max_shard_size=200_000)
    return folder


def everything(path: Path) -> dict[str, bytes]:
    if path.is_file():
        return {"": path.read_bytes()}
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("output", OUTPUTS)
def test_killed_at_a_hundred_moments(tiny: Path, whole: Path, tmp_path: Path, output: str) -> None:
    moments = random.Random(output)
    wanted = everything(whole / output)
    arguments = [*COMMAND, str(tiny), str(tmp_path / output), *OUTPUTS[output], "--resume"]
    completed = 0

    for _ in range(100):
        run = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            run.wait(moments.uniform(0.1, 0.7))
        except subprocess.TimeoutExpired:
            run.send_signal(signal.SIGKILL)
            run.wait()
        target = tmp_path / output
        assert not target.exists() or everything(target) == wanted
        if target.exists():
            completed += 1
            shutil.rmtree(target) if target.is_dir() else target.unlink()

    assert subprocess.run(arguments, cwd=ROOT, check=False, stdout=subprocess.DEVNULL).returncode == 0
    assert everything(tmp_path / output) == wanted
    assert [path.name for path in tmp_path.iterdir()] == [output]
    assert 0 < completed < 100


@pytest.mark.parametrize("output", OUTPUTS)
def test_fifty_file_size_limits(tiny: Path, whole: Path, tmp_path: Path, output: str) -> None:
    wanted = everything(whole / output)
    largest = max(map(len, wanted.values()))
    moments = random.Random(output)

    for _ in range(50):
        most = moments.randrange(largest)

        def limited(most: int = most) -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

        done = subprocess.run(
            [*COMMAND, str(tiny), str(tmp_path / output), *OUTPUTS[output]],
            cwd=ROOT, check=False, capture_output=True, text=True, preexec_fn=limited,
        )  # fmt: skip
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("output", OUTPUTS)
def test_fifty_disks_that_are_too_small(tiny: Path, whole: Path, tmp_path: Path, output: str) -> None:
    nbytes = sum(map(len, everything(whole / output).values()))
    moments = random.Random(output)
    # The check of free space is taken out, because a disk may also fill up during a run.
    script = (
        "import sys; from converter.io import publish; publish._check_room = lambda *a: None; "
        "from converter.cli.app import app; app(sys.argv[1:])"
    )

    for _ in range(50):
        size = max(16, moments.randrange(nbytes) // 1024)
        words = [sys.executable, "-c", script, *COMMAND[3:], str(tiny), f"disk/{output}", *OUTPUTS[output]]
        shell = f'mount -t tmpfs -o size={size}k disk disk && "$@"; code=$?; ls -A disk | wc -l; exit $code'
        (tmp_path / "disk").mkdir(exist_ok=True)
        done = subprocess.run(
            ["unshare", "--map-root-user", "--mount", "sh", "-c", shell, "sh", *words],
            cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}, check=False, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 2, done.stderr
        assert "no space left" in done.stderr
        assert done.stderr.count("\n") == 1
        assert done.stdout.strip() == "0"
