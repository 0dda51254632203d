"""Trainers, each run for two real steps on made-up data: the checkpoint that it writes, and its model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import nn
from torch.nn import functional

STEPS: Final = 2


class Written(NamedTuple):
    """A checkpoint; the model that `load_state_dict(strict=True)` should take its weights; options to convert it with."""

    path: Path
    model: nn.Module
    options: dict[str, Any]


class Net(nn.Module):
    """A small network with parameters, a buffer and a module without either."""

    def __init__(self, given: int = 4, out: int = 2) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(given, 8), nn.BatchNorm1d(8), nn.ReLU())
        self.head = nn.Linear(8, out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(7)
    for _ in range(STEPS):
        yield torch.randn(6, 4, generator=generator), torch.randint(0, 2, (6,), generator=generator)


def trained(net: nn.Module, after: Callable[[], None] = lambda: None) -> Any:
    """Two steps of AdamW; returns the optimizer."""
    optimizer = torch.optim.AdamW(net.parameters(), 0.01)
    for x, y in batches():
        optimizer.zero_grad()
        functional.cross_entropy(net(x), y).backward()
        optimizer.step()
        after()
    return optimizer


def tutorial(folder: Path) -> Written:
    net = Net()
    optimizer = trained(net)
    state = {
        "epoch": 2,
        "model_state_dict": net.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
        "loss": 0.5,
    }
    torch.save(state, folder / "tutorial.pt")
    return Written(folder / "tutorial.pt", net, {})


class Gpt(nn.Module):
    """nanoGPT's model in small: `transformer.h.N.attn.c_attn`, a tied head, `bias=False`."""

    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.ln_1 = nn.LayerNorm(width, bias=False)
            self.attn = nn.ModuleDict(
                {"c_attn": nn.Linear(width, 3 * width, bias=False), "c_proj": nn.Linear(width, width, bias=False)}
            )
            self.ln_2 = nn.LayerNorm(width, bias=False)
            self.mlp = nn.ModuleDict(
                {"c_fc": nn.Linear(width, 4 * width, bias=False), "c_proj": nn.Linear(4 * width, width, bias=False)}
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q, k, v = self.attn["c_attn"](self.ln_1(x)).chunk(3, -1)
            x = x + self.attn["c_proj"](functional.scaled_dot_product_attention(q, k, v, is_causal=True))
            return x + self.mlp["c_proj"](functional.gelu(self.mlp["c_fc"](self.ln_2(x))))

    def __init__(self, width: int = 8, vocabulary: int = 16) -> None:
        super().__init__()
        parts = {"wte": nn.Embedding(vocabulary, width), "wpe": nn.Embedding(8, width)}
        self.transformer = nn.ModuleDict(
            {**parts, "h": nn.ModuleList([self.Block(width)]), "ln_f": nn.LayerNorm(width, bias=False)}
        )
        self.lm_head = nn.Linear(width, vocabulary, bias=False)
        self.transformer["wte"].weight = self.lm_head.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.transformer["wte"](tokens) + self.transformer["wpe"](torch.arange(tokens.shape[1]))
        for block in self.transformer["h"]:
            x = block(x)
        return self.lm_head(self.transformer["ln_f"](x))


def model_loss_optimizer(folder: Path) -> Written:
    """As AWD-LSTM and PyTorch's example of a language model save: a list of the three objects."""
    net = Net()
    torch.save([net, nn.CrossEntropyLoss(), trained(net)], folder / "model.pt")
    return Written(folder / "model.pt", net, {})


def pair(folder: Path) -> Written:
    net = Net()
    optimizer = trained(net)
    torch.save((net.state_dict(), optimizer.state_dict()), folder / "checkpoint.pt")
    return Written(folder / "checkpoint.pt", net, {})


def nano_gpt(folder: Path) -> Written:
    net = Gpt()
    optimizer = torch.optim.AdamW(net.parameters(), 0.01)
    for _ in range(STEPS):
        tokens = torch.randint(0, 16, (2, 8))
        functional.cross_entropy(net(tokens).flatten(0, 1), tokens.flatten()).backward()
        optimizer.step()
    state = {
        "model": {f"_orig_mod.{name}": value for name, value in net.state_dict().items()},  # as torch.compile names them
        "optimizer": optimizer.state_dict(), "model_args": {"n_layer": 1, "n_embd": 8},
        "iter_num": STEPS, "best_val_loss": torch.tensor(1e9), "config": {"dataset": "shakespeare"},
    }  # fmt: skip
    torch.save(state, folder / "ckpt.pt")
    return Written(folder / "ckpt.pt", net, {})


def gan(folder: Path) -> Written:
    nets = nn.ModuleDict({"generator": Net(4, 4), "discriminator": Net(4, 2)})
    optimizers = [torch.optim.Adam(net.parameters(), 0.01) for net in nets.values()]
    for x, y in batches():
        functional.cross_entropy(nets["discriminator"](nets["generator"](x)), y).backward()
        for optimizer in optimizers:
            optimizer.step()
    state = {name: net.state_dict() for name, net in nets.items()}
    more = {"optimizer_g": optimizers[0].state_dict(), "optimizer_d": optimizers[1].state_dict(), "epoch": 1}
    torch.save({**state, **more}, folder / "gan.pt")
    return Written(folder / "gan.pt", nets, {})


def gan_generator(folder: Path) -> Written:
    path, nets, _ = gan(folder)
    return Written(path, nets["generator"], {"root": "generator"})


def averaged(folder: Path) -> Written:
    net = Net()
    average = torch.optim.swa_utils.AveragedModel(net, use_buffers=True)
    optimizer = trained(net, lambda: average.update_parameters(net))
    state = {"model": net.state_dict(), "ema": average.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(state, folder / "ema.pt")
    return Written(folder / "ema.pt", net, {})


def averaged_itself(folder: Path) -> Written:
    net = Net()
    average = torch.optim.swa_utils.AveragedModel(net)
    trained(net, lambda: average.update_parameters(net))
    torch.save(average, folder / "average.pt")
    return Written(folder / "average.pt", average, {})


def data_parallel(folder: Path) -> Written:
    net = Net()
    optimizer = trained(net)
    state = {"state_dict": nn.DataParallel(net).state_dict(), "optimizer": optimizer.state_dict(), "epoch": 2}
    torch.save(state, folder / "parallel.pth.tar")
    return Written(folder / "parallel.pth.tar", net, {})


def yolo(folder: Path) -> Written:
    net, average = Net(), Net()
    trained(net)
    average.load_state_dict(net.state_dict())
    torch.save({"epoch": -1, "model": None, "ema": copy.deepcopy(average).half(), "train_args": {}}, folder / "best.pt")
    return Written(folder / "best.pt", average.half(), {})


class Fitter:
    """A trainer that is saved itself: its attributes lead to the model."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.optimizer = trained(model)
        self.history = [0.5, 0.25]


def pickled_trainer(folder: Path) -> Written:
    fitter = Fitter(Net())
    torch.save(fitter, folder / "fitter.pkl")
    return Written(folder / "fitter.pkl", fitter.model, {})


def transformers_trainer(folder: Path) -> Written:
    import transformers

    config = transformers.GPT2Config(
        n_embd=8, n_layer=1, n_head=2, vocab_size=16, n_positions=8, bos_token_id=0, eos_token_id=0
    )
    model = transformers.GPT2LMHeadModel(config)
    data = [{"input_ids": torch.arange(8), "labels": torch.arange(8)} for _ in range(8)]
    arguments = transformers.TrainingArguments(
        str(folder / "run"), max_steps=STEPS, save_steps=STEPS, per_device_train_batch_size=2, report_to=[], use_cpu=True,
        disable_tqdm=True, logging_strategy="no",
    )  # fmt: skip
    transformers.Trainer(model, arguments, train_dataset=data).train()
    return Written(folder / "run" / f"checkpoint-{STEPS}", model, {})


def lightning(folder: Path) -> Written:
    import lightning.pytorch as pl

    class Lit(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            return functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.Adam(self.parameters(), 0.01)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]

    model, quiet = (
        Lit(),
        dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False),
    )
    trainer = pl.Trainer(max_steps=STEPS, accelerator="cpu", **quiet)
    trainer.fit(
        model,
        torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*map(torch.cat, zip(*batches(), strict=True))), 6),
    )
    trainer.save_checkpoint(folder / "l.ckpt")
    return Written(folder / "l.ckpt", model, {})


def accelerate(folder: Path, safe: bool = False) -> Written:
    from accelerate import Accelerator

    accelerator, net = Accelerator(cpu=True), Net()
    optimizer = torch.optim.AdamW(net.parameters(), 0.01)
    net, optimizer = accelerator.prepare(net, optimizer)
    for x, y in batches():
        accelerator.backward(functional.cross_entropy(net(x), y))
        optimizer.step()
    accelerator.save_state(str(folder / "state"), safe_serialization=safe)
    return Written(folder / "state", accelerator.unwrap_model(net), {})


def timm(folder: Path) -> Written:
    import argparse

    from timm import create_model
    from timm.utils import CheckpointSaver, ModelEmaV3

    model = create_model("mobilenetv3_small_050", num_classes=2)
    average = ModelEmaV3(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for _ in range(STEPS):
        functional.cross_entropy(model(torch.randn(2, 3, 32, 32)), torch.tensor([0, 1])).backward()
        optimizer.step()
        average.update(model)
    folders = {"checkpoint_dir": str(folder), "recovery_dir": str(folder)}
    CheckpointSaver(
        model, optimizer, args=argparse.Namespace(model="x", lr=0.1), model_ema=average, **folders
    ).save_checkpoint(0, 1.0)
    return Written(folder / "last.pth.tar", model, {})


def averaged_by_ema_pytorch(folder: Path) -> Written:
    from ema_pytorch import EMA

    net = Net()
    average = EMA(net, update_after_step=0, update_every=1)
    trained(net, average.update)
    torch.save({"model": net.state_dict(), "ema": average.state_dict(), "step": STEPS}, folder / "ema.pt")
    return Written(folder / "ema.pt", net, {})


# Trainers that need nothing but torch, and those that need a library.
PLAIN: Final[dict[str, Callable[[Path], Written]]] = {
    "PyTorch's tutorial": tutorial,
    "a list of model, loss and optimizer": model_loss_optimizer,
    "a pair of state dicts": pair,
    "nanoGPT": nano_gpt,
    "a GAN": gan,
    "a GAN's generator": gan_generator,
    "a model and its average": averaged,
    "AveragedModel": averaged_itself,
    "DataParallel": data_parallel,
    "YOLO's average": yolo,
    "a trainer itself": pickled_trainer,
}
LIBRARIES: Final[dict[str, Callable[[Path], Written]]] = {
    "transformers": transformers_trainer,
    "lightning": lightning,
    "accelerate": accelerate,
    "timm": timm,
    "ema_pytorch": averaged_by_ema_pytorch,
}
