"""The classes that well-known libraries leave in checkpoints, in words. What their code does is not known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final, NamedTuple

from converter.text import safe_text

_NAMES: Final = 6  # globals of a library that are named in one line


class Library(NamedTuple):
    """A package, the words for one and for several of its globals, and what unpickling them does besides importing."""

    package: str
    one: str
    many: str
    follows: str = ""

    @property
    def words(self) -> str:
        """One global of it in words, and what follows from it."""
        return f"{self.one}; {self.effect}"

    @property
    def effect(self) -> str:
        """What unpickling one of its globals does."""
        return self.follows or f"unpickling imports {self.package.partition('.')[0]}"

    def together(self, globals_: Iterable[str]) -> str:
        """One sentence about several of its globals, given by their full names. The first few are listed."""
        names = dict.fromkeys(name.removeprefix(f"{self.package}.") for name in globals_)
        # The name of the class alone, unless two modules have a class of that name.
        short = Counter(name.rpartition(".")[2] for name in names)
        shown = [last if short[last := name.rpartition(".")[2]] == 1 else name for name in names]
        listed = ", ".join([*(safe_text(name, 60) for name in shown[:_NAMES]), *(["…"] if len(shown) > _NAMES else [])])
        return f"{self.package}: {len(names):,} {self.many} ({listed}), outside the closed table; {self.effect}"


# If several packages match a module, the longest one counts.
LIBRARIES: Final = {
    row.package: row
    for row in (
        Library("torch.nn", "a layer of torch", "layers of torch"),
        Library("torch.nn.parallel", "a wrapper of torch for several devices", "wrappers of torch for several devices"),
        Library("torch.optim", "an optimizer or scheduler of torch", "optimizers and schedulers of torch"),
        Library("torch.distributed", "a part of a sharded checkpoint of torch", "parts of a sharded checkpoint of torch"),
        Library("torch.ao", "a quantised layer of torch or its settings", "quantised layers of torch and their settings"),
        Library("torch.quantization", "a setting of torch's quantisation", "settings of torch's quantisation"),
        Library("torch.utils.data", "a data set or loader of torch", "data sets and loaders of torch"),
        Library("torch", "something of torch", "globals of torch"),
        Library("numpy", "something of numpy", "globals of numpy"),
        Library("scipy", "something of scipy", "globals of scipy"),
        Library("pandas", "a table of pandas or a part of one", "tables of pandas and their parts"),
        Library("sklearn", "an estimator of scikit-learn or a part of one", "estimators of scikit-learn and their parts"),
        Library("xgboost", "a model of XGBoost or a part of one", "models of XGBoost and their parts"),
        Library("lightgbm", "a model of LightGBM or a part of one", "models of LightGBM and their parts"),
        Library("ultralytics", "a layer or model of Ultralytics", "layers and models of Ultralytics"),
        Library("models", "a layer or model of YOLOv5 or YOLOv7", "layers and models of YOLOv5 or YOLOv7"),
        Library("transformers", "a model or setting of transformers", "models and settings of transformers"),
        Library("tokenizers", "a tokenizer", "tokenizers"),
        Library("accelerate", "a setting of accelerate", "settings of accelerate"),
        Library("peft", "an adapter of peft", "adapters of peft"),
        Library("diffusers", "a model or scheduler of diffusers", "models and schedulers of diffusers"),
        Library("datasets", "a data set of datasets", "data sets of datasets"),
        Library("timm", "a layer or model of timm", "layers and models of timm"),
        Library("torchvision", "a layer or transform of torchvision", "layers and transforms of torchvision"),
        Library("torchaudio", "a layer or transform of torchaudio", "layers and transforms of torchaudio"),
        Library("lightning", "something of Lightning", "globals of Lightning"),
        Library("lightning_fabric", "something of Lightning", "globals of Lightning"),
        Library("pytorch_lightning", "something of Lightning", "globals of Lightning"),
        Library("torchmetrics", "a metric of torchmetrics", "metrics of torchmetrics"),
        Library("omegaconf", "a configuration of OmegaConf", "configurations of OmegaConf"),
        Library("fairseq", "a part of fairseq", "parts of fairseq"),
        Library("megatron", "a part of Megatron", "parts of Megatron"),
        Library("deepspeed", "a part of DeepSpeed", "parts of DeepSpeed"),
        Library("mmcv", "a part of MMCV", "parts of MMCV"),
        Library("mmengine", "a part of MMEngine", "parts of MMEngine"),
        Library("detectron2", "a part of Detectron2", "parts of Detectron2"),
        Library("monai", "a layer or transform of MONAI", "layers and transforms of MONAI"),
        Library("sentence_transformers", "a part of Sentence Transformers", "parts of Sentence Transformers"),
        Library("torch_geometric", "a part of PyTorch Geometric", "parts of PyTorch Geometric"),
        Library("speechbrain", "a part of SpeechBrain", "parts of SpeechBrain"),
        Library("keras", "a layer or model of Keras", "layers and models of Keras"),
        Library("tensorflow", "something of TensorFlow", "globals of TensorFlow"),
        Library("jax", "something of JAX", "globals of JAX"),
        Library("_io", "a file object of Python, such as io.BytesIO", "file objects of Python, such as io.BytesIO",
                "unpickling makes it in memory"),
        Library("random", "a part of Python's random generator", "parts of Python's random generator",
                "unpickling sets its state"),
        Library("__torch__", "a class of TorchScript", "classes of TorchScript", "unpickling needs torch.jit, which compiles it"),
        Library("__main__", "a global of the script that saved the file", "globals of the script that saved the file",
                "unpickling looks for it in the program that loads the file"),
    )
}  # fmt: skip


def library(module: str) -> Library | None:
    """The library that a module belongs to, or None."""
    while module:
        if (found := LIBRARIES.get(module)) is not None:
            return found
        module = module.rpartition(".")[0]
    return None
