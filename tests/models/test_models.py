import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from converter.dtypes import BOOL, F32, U8
from converter.errors import ModelError
from converter.io.source import Source
from converter.models import architecture as architectures
from converter.models import declared as models
from converter.models import rows as row_table
from converter.models.declared import declared, find
from converter.models.families import family
from converter.models.recognition import Mismatch, recognise
from converter.resources import schemas
from converter.tensors.tensor import Storage, Tensor
from tests.build.steps import steps

PARAMETERS = Path(__file__).parent.parent.parent / "parameters"

# model: n_embd, n_layer, n_head, parameters, storages, bytes of pytorch_model.bin, bytes of its storages
FACTS = {
    "111M": (768, 10, 12, 111_050_496, (144,), 486_188_257, 486_145_064),
    "256M": (1088, 14, 17, 255_977_024, (200,), 1_082_688_753, 1_082_628_408),
    "590M": (1536, 18, 12, 590_310_912, (256,), 2_436_818_753, 2_436_741_192),
    "1.3B": (2048, 24, 16, 1_315_723_264, (340,), 5_363_661_129, 5_363_556_448),
    "2.7B": (2560, 32, 32, 2_651_553_280, (452,), 10_740_572_549, 10_740_430_976),
    "6.7B": (4096, 32, 32, 6_658_404_352, (452,), 26_767_978_209, 26_767_835_264),
    "13B": (5120, 40, 40, 12_853_386_240, (322, 242), None, 51_581_317_280),
}
SHA256 = {
    "111M": "d3aaac9e0af24101eeef40559f4e89fcf873325ace12fa1031518c71fc6d0f82",
    "6.7B": "962ebf74faa3e819a8793be79c3829911a24fb40053b8ae9fc3d51eb7f32eb3a",
}
PREFIXES = ("", "transformer.")
MASKS = (".attn.bias", ".attn.masked_bias")
GPT2 = family("gpt2")


class Nothing(Source):
    """A source that no test reads."""

    name = "nothing"
    size = 1 << 62

    def _fill(self, offset: int, buffer: memoryview) -> None:
        raise AssertionError("a catalogue is recognised by names and shapes alone")


NOTHING = Nothing()


def tensor(*shape: int, key: str = "0") -> Tensor:
    stride = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    return Tensor(F32, shape, stride, 0, Storage(NOTHING, 0, 4 * math.prod(shape), key))


def gpt2(
    n_embd: int,
    n_layer: int,
    *,
    vocab: int = 50257,
    positions: int = 2048,
    prefix: str = "transformer.",
    inner: int = 0,
) -> dict[str, Tensor]:
    """A checkpoint of a GPT-2, spelled out here again and not taken from the rows."""
    inner = inner or 4 * n_embd
    shapes: dict[str, tuple[int, ...]] = {"wte.weight": (vocab, n_embd), "wpe.weight": (positions, n_embd)}
    for layer in range(n_layer):
        shapes |= {
            f"h.{layer}.ln_1.weight": (n_embd,),
            f"h.{layer}.ln_1.bias": (n_embd,),
            f"h.{layer}.attn.bias": (1, 1, positions, positions),
            f"h.{layer}.attn.masked_bias": (),
            f"h.{layer}.attn.c_attn.weight": (n_embd, 3 * n_embd),
            f"h.{layer}.attn.c_attn.bias": (3 * n_embd,),
            f"h.{layer}.attn.c_proj.weight": (n_embd, n_embd),
            f"h.{layer}.attn.c_proj.bias": (n_embd,),
            f"h.{layer}.ln_2.weight": (n_embd,),
            f"h.{layer}.ln_2.bias": (n_embd,),
            f"h.{layer}.mlp.c_fc.weight": (n_embd, inner),
            f"h.{layer}.mlp.c_fc.bias": (inner,),
            f"h.{layer}.mlp.c_proj.weight": (inner, n_embd),
            f"h.{layer}.mlp.c_proj.bias": (n_embd,),
        }
    shapes |= {"ln_f.weight": (n_embd,), "ln_f.bias": (n_embd,)}
    return {prefix + name: tensor(*shape, key=str(key)) for key, (name, shape) in enumerate(shapes.items())}


def tiny(prefix: str = "transformer.", inner: int = 0) -> dict[str, Tensor]:
    return gpt2(64, 4, vocab=257, positions=64, prefix=prefix, inner=inner)


def test_a_name_has_one_of_several_prefixes() -> None:
    several = replace(family("gpt2"), prefixes=("", "model.", "transformer."))

    assert [several.bare(name) for name in ("model.wte.weight", "transformer.wte.weight", "wte.weight", "x.wte")] == [
        "wte.weight", "wte.weight", "wte.weight", "x.wte",
    ]  # fmt: skip


TINY_CONFIG = {"model_type": "gpt2", "n_embd": 64, "n_layer": 4, "n_head": 4, "n_positions": 64, "vocab_size": 257}


def without(catalogue: Mapping[str, Tensor], *names: str) -> dict[str, Tensor]:
    assert set(names) <= set(catalogue)
    return {name: tensor for name, tensor in catalogue.items() if name not in names}


def keys(documents: Iterable[Mapping[str, object]]) -> set[str]:
    return {key for document in documents for key in document}


def names(kind: Any) -> set[str]:
    return set(kind.__match_args__)


class TestDeclaredModels:
    def test_there_are_seven_the_smallest_first(self) -> None:
        assert [model.short for model in declared()] == list(FACTS)

    @pytest.mark.parametrize("short", FACTS)
    def test_sizes_are_the_published_ones(self, short: str) -> None:
        n_embd, n_layer, n_head, parameters, storages, nbytes, _ = FACTS[short]
        model = find(short)

        assert model.config["n_embd"] == n_embd
        assert model.config["n_layer"] == n_layer
        assert model.config["n_head"] == n_head
        assert model.config["n_inner"] == 4 * n_embd
        assert (model.config["vocab_size"], model.config["n_positions"]) == (50257, 2048)
        assert (model.config["activation_function"], model.config["layer_norm_epsilon"]) == ("gelu", 1e-05)
        assert model.parameters == parameters
        assert tuple(file.storages for file in model.files) == storages
        assert model.files[0].nbytes == nbytes
        assert model.files[0].sha256 == SHA256.get(short)
        assert (model.architecture, model.licence) == ("gpt2", "Apache-2.0")
        assert model.companions == ("config.json", "vocab.json", "merges.txt")

    @pytest.mark.parametrize("short", FACTS)
    def test_rows_add_up_to_the_parameters_the_storages_and_the_bytes(self, short: str) -> None:
        _, _, _, parameters, storages, _, stored = FACTS[short]
        rows = [row for row in GPT2.rows(GPT2.sizes(find(short).config)) if not row.optional]
        masks = {"causal": 1, -10000.0: 4}

        assert sum(math.prod(row.shape) for row in rows if row.kind == "parameter") == parameters
        assert len(rows) == sum(storages)
        assert sum(math.prod(row.shape) * masks.get(row.value or 0, 4) for row in rows) == stored

    def test_the_first_six_have_just_fourteen_keys_of_config(self) -> None:
        assert {len(model.config) for model in declared()[:6]} == {14}
        assert "architectures" not in find("6.7B").config
        assert find("6.7B").config["tie_word_embeddings"] is True

    def test_the_13b_was_saved_in_another_way(self) -> None:
        model = find("13B")

        assert model.config["architectures"] == ["GPT2Model"]
        assert "tie_word_embeddings" not in model.config
        assert (model.layout.prefix, model.layout.mask_dtype) == ("", BOOL.name)
        assert (model.layout.transposed, model.layout.order) == (False, "module")
        assert "strides" in (model.layout.note or "")
        assert [file.first for file in model.files] == ["wte.weight", "h.22.mlp.c_proj.weight"]
        assert model.files[1].root == "pytorch_model-00002-of-00002"
        assert model.url(model.index or "") == (
            "https://huggingface.co/cerebras/Cerebras-GPT-13B/resolve/main/pytorch_model.bin.index.json"
        )

    def test_the_others_are_single_files_of_transposed_views(self) -> None:
        for model in declared()[:6]:
            assert (model.layout.prefix, model.layout.mask_dtype) == ("transformer.", U8.name)
            assert (model.layout.transposed, model.layout.order) == (True, "converted")
            assert [(file.name, file.root, file.first) for file in model.files] == [
                ("pytorch_model.bin", "archive", None)
            ]
            assert model.index is None

    def test_a_size_says_whether_it_was_published(self) -> None:
        assert find("6.7B").files[0].nbytes_is == "published"
        assert {model.files[0].nbytes_is for model in declared()[:5]} == {"calculated"}

    def test_the_replaced_file_is_told_apart_by_its_hash(self) -> None:
        assert find("6.7B").files[0].superseded_sha256 == (
            "d308784cd6849ffc8bf1fc6c7064ecc8a17a384b14b496eed7a1e09ba91fb976"
        )

    def test_a_file_has_its_direct_link(self) -> None:
        assert find("111M").files[0].url == (
            "https://huggingface.co/cerebras/Cerebras-GPT-111M/resolve/main/pytorch_model.bin"
        )

    @pytest.mark.parametrize(
        "name", ["Cerebras-GPT-1.3B", "1.3B", "1.3b", "CEREBRAS-gpt-1.3b", "cerebras/Cerebras-GPT-1.3B"]
    )
    def test_a_model_is_found_by_any_of_its_names(self, name: str) -> None:
        assert find(name).name == "Cerebras-GPT-1.3B"

    @pytest.mark.parametrize("name", ["", "1.3", "GPT-1.3B", "13", "../111M", "openai/111M"])
    def test_another_name_is_refused_with_those_that_are_known(self, name: str) -> None:
        with pytest.raises(ModelError, match=r"Cerebras-GPT-111M, .*, Cerebras-GPT-13B$"):
            find(name)


class TestSchemas:
    """The JSON against the code, in both directions."""

    def test_every_field_of_a_model_is_read_and_every_one_read_is_there(self) -> None:
        documents = [json.loads(path.read_bytes()) for path in (schemas() / "models").glob("*.json")]
        files = [file for document in documents for file in document["files"]]

        assert keys(documents) == names(models.Model)
        made = {"dtype", "without"}  # what only samples of families have
        assert keys(document["layout"] for document in documents) | made == names(models.Layout)
        assert keys(files) | {"url"} == names(models.ModelFile)

    def test_every_field_of_an_architecture_is_read_and_every_one_read_is_there(self) -> None:
        schema = json.loads((schemas() / "architectures.schema.json").read_bytes())
        fields = schema["properties"]
        renamed = {"sizes": "size_table", "rows": "row_table", "gguf_made": "made"}
        own = {"aliases"}  # it follows from the rows

        def item(name: str) -> set[str]:
            return set(fields[name]["items"]["properties"])

        assert {renamed.get(key, key) for key in fields} | own == names(architectures.Architecture)
        assert item("rows") == names(row_table.Row)
        assert set(fields["rows"]["items"]["properties"]["gguf_moves"]["items"]["properties"]) == names(
            row_table.MoveRow
        )
        assert item("gguf_made") == names(row_table.Made)
        assert item("sizes") == names(architectures.Size)
        assert item("settings") == names(architectures.Setting)
        assert item("metadata") == names(row_table.Metadatum)
        assert item("client") == names(architectures.ClientProperty)
        assert set(fields["activation"]["properties"]) == names(architectures.ActivationNames)
        assert set(fields["tokenizer"]["properties"]) == names(architectures.TokenizerKind)
        assert set(fields["gguf"]["properties"]) == names(row_table.Gguf)
        assert set(fields["forward"]["properties"]) == names(architectures.Forward)
        assert set(fields["forward"]["properties"]["rotary"]["properties"]) == names(architectures.Rotary)

    def test_a_file_is_named_after_what_it_declares(self) -> None:
        for folder in ("models", "architectures"):
            for path in (schemas() / folder).glob("*.json"):
                assert json.loads(path.read_bytes())["name"] == path.stem

    def test_rows_speak_of_declared_sizes_and_of_each_other_only(self) -> None:
        sizes = {size.name for size in GPT2.size_table}
        named = {row.name for row in GPT2.row_table}

        assert {size for row in GPT2.row_table for size in row.shape if isinstance(size, str)} <= sizes
        assert {row.tied_to for row in GPT2.row_table} <= {None, *named}
        assert {datum.value for datum in GPT2.metadata} <= sizes | set(find("111M").config)
        assert len(named) == len(GPT2.row_table) == 19

    def test_an_order_names_every_row_once(self) -> None:
        for order in GPT2.orders.values():
            assert sorted(order) == sorted(row.name for row in GPT2.row_table)
        assert {model.layout.order for model in declared()} == {"module", *GPT2.orders}

    def test_no_two_rows_share_a_name_in_any_format(self) -> None:
        rows = GPT2.rows(GPT2.sizes(find("111M").config))
        client = [part for row in rows for part in (row.client_parts or (row.client,)) if part]

        assert len({row.name for row in rows}) == len(rows) == 145
        assert len({row.gguf for row in rows if row.gguf}) == 125
        assert len(set(client)) == len(client) == 164


class TestRows:
    def test_of_the_second_layer_in_every_format(self) -> None:
        rows = {row.name: row for row in GPT2.rows(GPT2.sizes(find("111M").config))}
        c_attn = rows["h.1.attn.c_attn.weight"]

        assert c_attn.shape == (768, 2304)
        assert (c_attn.gguf, c_attn.gguf_transposed) == ("blk.1.attn_qkv.weight", True)
        assert c_attn.client == "decoder2/att.query.key.value.w"
        assert c_attn.client_parts == ("decoder2/att.query.w", "decoder2/att.key.w", "decoder2/att.value.w")
        assert c_attn.layer == 1
        assert c_attn.named("transformer.") == "transformer.h.1.attn.c_attn.weight"

    @pytest.mark.parametrize(
        ("name", "shape", "gguf", "transposed", "client"),
        [
            ("wte.weight", (50257, 1088), "token_embd.weight", False, "input/wte"),
            ("wpe.weight", (2048, 1088), "position_embd.weight", False, "input/wpe"),
            ("h.0.ln_1.weight", (1088,), "blk.0.attn_norm.weight", False, "decoder1/att.norm.w"),
            ("h.0.attn.c_attn.bias", (3264,), "blk.0.attn_qkv.bias", False, "decoder1/att.query.key.value.b"),
            ("h.0.attn.c_proj.weight", (1088, 1088), "blk.0.attn_output.weight", True, "decoder1/att.proj.w"),
            ("h.13.ln_2.bias", (1088,), "blk.13.ffn_norm.bias", False, "decoder14/mlp.norm.b"),
            ("h.13.mlp.c_fc.weight", (1088, 4352), "blk.13.ffn_up.weight", True, "decoder14/mlp.layer1.w"),
            ("h.13.mlp.c_proj.weight", (4352, 1088), "blk.13.ffn_down.weight", True, "decoder14/mlp.layer2.w"),
            ("h.13.mlp.c_proj.bias", (1088,), "blk.13.ffn_down.bias", False, "decoder14/mlp.layer2.b"),
            ("ln_f.weight", (1088,), "output_norm.weight", False, "output/norm.w"),
            ("lm_head.weight", (50257, 1088), "output.weight", False, None),
            ("h.0.attn.bias", (1, 1, 2048, 2048), None, False, None),
            ("h.0.attn.masked_bias", (), None, False, None),
        ],
    )
    def test_of_the_256m(
        self, name: str, shape: tuple[int, ...], gguf: str | None, transposed: bool, client: str | None
    ) -> None:
        row = {row.name: row for row in GPT2.rows(GPT2.sizes(find("256M").config))}[name]

        assert (row.shape, row.gguf, row.gguf_transposed, row.client) == (shape, gguf, transposed, client)

    def test_masks_say_what_they_must_hold(self) -> None:
        buffers = {row.name: row.value for row in GPT2.rows(GPT2.sizes(find("111M").config)) if row.kind == "buffer"}

        assert len(buffers) == 20
        assert (buffers["h.9.attn.bias"], buffers["h.9.attn.masked_bias"]) == ("causal", -1e4)

    def test_the_head_is_optional_tied_and_never_prefixed(self) -> None:
        head = GPT2.rows(GPT2.sizes(find("111M").config))[-1]

        assert (head.optional, head.tied_to) == (True, "wte.weight")
        assert head.named("transformer.") == "lm_head.weight"

    @pytest.mark.parametrize(
        ("order", "layer"),
        [
            (
                "converted",
                "attn.c_attn attn.bias attn.masked_bias attn.c_proj ln_1 ln_2 mlp.c_fc mlp.c_proj",
            ),
            ("module", "ln_1 attn.bias attn.masked_bias attn.c_attn attn.c_proj ln_2 mlp.c_fc mlp.c_proj"),
        ],
    )
    def test_order_of_the_storages(self, order: str, layer: str) -> None:
        rows = [row.name for row in GPT2.rows(GPT2.sizes(find("111M").config), order)]
        masks = ("attn.bias", "attn.masked_bias")
        one = [
            name
            for part in layer.split()
            for name in ((part,) if part in masks else (f"{part}.weight", f"{part}.bias"))
        ]

        assert rows == [
            *("wte.weight", "wpe.weight"),
            *(f"h.{n}.{name}" for n in range(10) for name in one),
            *("ln_f.weight", "ln_f.bias", "lm_head.weight"),
        ]

    def test_gguf_keys(self) -> None:
        assert {datum.key: (datum.type, datum.value) for datum in GPT2.metadata} == {
            "gpt2.context_length": ("u32", "n_positions"),
            "gpt2.embedding_length": ("u32", "n_embd"),
            "gpt2.block_count": ("u32", "n_layer"),
            "gpt2.feed_forward_length": ("u32", "n_inner"),
            "gpt2.attention.head_count": ("u32", "n_head"),
            "gpt2.vocab_size": ("u32", "vocab_size"),
            "gpt2.attention.layer_norm_epsilon": ("f32", "layer_norm_epsilon"),
        }


class TestSizes:
    def test_what_config_leaves_out_follows_from_the_rest(self) -> None:
        assert GPT2.sizes(TINY_CONFIG) == {
            "n_layer": 4,
            "n_head": 4,
            "n_embd": 64,
            "n_qkv": 192,
            "n_inner": 256,
            "n_positions": 64,
            "vocab_size": 257,
        }

    def test_null_is_as_good_as_absent(self) -> None:
        assert GPT2.sizes(TINY_CONFIG | {"n_inner": None})["n_inner"] == 256

    def test_what_config_says_goes_before(self) -> None:
        assert GPT2.sizes(TINY_CONFIG | {"n_inner": 100})["n_inner"] == 100

    def test_n_ctx_stands_in_for_n_positions(self) -> None:
        config = {**TINY_CONFIG, "n_positions": None, "n_ctx": 32}

        assert GPT2.sizes(config)["n_positions"] == 32

    def test_an_absent_size_is_named(self) -> None:
        with pytest.raises(ModelError, match="has no `n_embd`"):
            GPT2.sizes({key: value for key, value in TINY_CONFIG.items() if key != "n_embd"})

    @pytest.mark.parametrize("value", [0, -1, 64.0, "64", True, [64]], ids=repr)
    def test_a_size_is_a_whole_number(self, value: object) -> None:
        with pytest.raises(ModelError, match=r"`vocab_size` is .*: expected a whole number from 1"):
            GPT2.sizes(TINY_CONFIG | {"vocab_size": value})

    def test_heads_must_divide_the_width(self) -> None:
        with pytest.raises(ModelError, match="`n_head` is 5, which does not divide the 64 of `n_embd`"):
            GPT2.sizes(TINY_CONFIG | {"n_head": 5})


class TestRecognise:
    @pytest.mark.parametrize("prefix", PREFIXES)
    @pytest.mark.parametrize("short", FACTS)
    def test_every_model_under_both_prefixes(self, short: str, prefix: str) -> None:
        n_embd, n_layer, n_head, *_ = FACTS[short]

        seen = recognise(gpt2(n_embd, n_layer, prefix=prefix))

        assert seen is not None
        assert seen.model is find(short)
        assert (seen.family.name, seen.prefix, seen.complete) == ("gpt2", prefix, True)
        assert dict(seen.sizes) == {
            "n_layer": n_layer,
            "n_head": n_head,
            "n_embd": n_embd,
            "n_qkv": 3 * n_embd,
            "n_inner": 4 * n_embd,
            "n_positions": 2048,
            "vocab_size": 50257,
        }
        assert (seen.missing, seen.unexpected, seen.mismatched, seen.contradictions) == ((), (), (), ())
        assert len(seen.buffers) == 2 * n_layer
        assert seen.tied_head == "absent"

    @pytest.mark.parametrize("short", FACTS)
    def test_its_own_config_contradicts_nothing(self, short: str) -> None:
        n_embd, n_layer, *_ = FACTS[short]

        seen = recognise(gpt2(n_embd, n_layer), find(short).config)

        assert seen is not None
        assert seen.model is find(short)
        assert seen.contradictions == ()

    def test_a_model_without_masks_is_complete(self) -> None:
        seen = recognise({name: tensor for name, tensor in gpt2(768, 10).items() if not name.endswith(MASKS)})

        assert seen is not None
        assert (seen.model, seen.complete, seen.buffers) == (find("111M"), True, ())

    def test_a_model_that_is_not_declared(self) -> None:
        seen = recognise(tiny(), TINY_CONFIG)

        assert seen is not None
        assert (seen.model, seen.complete, seen.contradictions) == (None, True, ())
        assert (seen.sizes["n_head"], seen.sizes["n_inner"], seen.sizes["vocab_size"]) == (4, 256, 257)

    def test_heads_can_not_be_guessed(self) -> None:
        seen = recognise(tiny())

        assert seen is not None
        assert "n_head" not in seen.sizes

    def test_gpt2_itself_is_not_a_cerebras_model_of_the_same_width(self) -> None:
        seen = recognise(gpt2(768, 12, positions=1024))

        assert seen is not None
        assert (seen.model, seen.complete) == (None, True)

    def test_a_model_of_the_same_shapes_and_fewer_layers_when_config_agrees(self) -> None:
        seen = recognise(gpt2(768, 8), {**find("111M").config, "n_layer": 8})

        assert seen is not None
        assert (seen.model, seen.complete, seen.contradictions) == (None, True, ())

    @pytest.mark.parametrize("config", [None, dict(find("111M").config)], ids=["bare", "config"])
    def test_a_missing_tensor_is_named(self, config: dict[str, object] | None) -> None:
        catalogue = without(gpt2(768, 10), "transformer.h.9.mlp.c_proj.bias", "transformer.ln_f.weight")

        seen = recognise(catalogue, config)

        assert seen is not None
        assert (seen.model, seen.complete) == (find("111M"), False)
        assert seen.missing == ("transformer.h.9.mlp.c_proj.bias", "transformer.ln_f.weight")
        assert seen.contradictions == ()

    @pytest.mark.parametrize("config", [None, dict(find("111M").config)], ids=["bare", "config"])
    def test_missing_layers_are_named_in_order(self, config: dict[str, object] | None) -> None:
        catalogue = {name: tensor for name, tensor in gpt2(768, 10).items() if ".8." not in name and ".9." not in name}

        seen = recognise(catalogue, config)

        assert seen is not None
        assert (seen.model, len(seen.missing), seen.contradictions) == (find("111M"), 24, ())
        assert seen.missing[0] == "transformer.h.8.ln_1.weight"
        assert seen.missing[12] == "transformer.h.9.ln_1.weight"

    @pytest.mark.parametrize("shard", [1, 2])
    def test_a_shard_is_a_part_of_its_model(self, shard: int) -> None:
        catalogue = gpt2(5120, 40, prefix="")
        cut = list(catalogue).index("h.22.mlp.c_proj.weight")
        part = dict(list(catalogue.items())[:cut] if shard == 1 else list(catalogue.items())[cut:])
        lacking = {name for name in catalogue if name not in part and not name.endswith(MASKS)}

        for config in (None, find("13B").config):
            seen = recognise(part, config)

            assert seen is not None
            assert (seen.model, seen.complete, seen.contradictions) == (find("13B"), False, ())
            assert (seen.sizes["n_layer"], seen.sizes["vocab_size"]) == (40, 50257)
            assert set(seen.missing) == lacking

    @pytest.mark.parametrize(
        ("name", "shape"),
        [("wte.weight", (50257, 1088)), ("wpe.weight", (2048, 1088)), ("h.3.mlp.c_fc.weight", (1088, 4352))],
    )
    def test_one_matrix_is_enough(self, name: str, shape: tuple[int, ...]) -> None:
        seen = recognise({name: tensor(*shape)})

        assert seen is not None
        assert seen.model is find("256M")
        assert len(seen.missing) == 2 + 12 * 14 + 2 - 1

    def test_a_part_of_a_model_that_is_not_declared_takes_the_rest_from_config(self) -> None:
        catalogue = {name: tensor for name, tensor in tiny().items() if ".3." not in name and "ln_f" not in name}

        seen = recognise(without(catalogue, "transformer.wte.weight"), TINY_CONFIG)

        assert seen is not None
        assert (seen.sizes["n_layer"], seen.sizes["vocab_size"], seen.contradictions) == (4, 257, ())
        assert len(seen.missing) == 1 + 12 + 2

    def test_a_vector_alone_is_not_enough(self) -> None:
        assert recognise({"ln_f.weight": tensor(768)}) is None

    def test_an_extra_tensor_is_unexpected_and_no_harm(self) -> None:
        extra = {"score.weight": tensor(2, 768), "transformer.h.10.ln_1.weight": tensor(768)}

        seen = recognise(gpt2(768, 10) | extra)

        assert seen is not None
        assert (seen.model, seen.complete) == (find("111M"), True)
        assert seen.unexpected == ("score.weight", "transformer.h.10.ln_1.weight")

    @pytest.mark.parametrize(
        "name", ["h.00.ln_1.weight", "h.{layer}.ln_1.weight", "h.٣.ln_1.weight", "h.1234567.ln_1.bias"]
    )
    def test_a_name_that_only_resembles_a_layer_is_unexpected(self, name: str) -> None:
        seen = recognise(gpt2(768, 10, prefix="") | {name: tensor(768)})

        assert seen is not None
        assert (seen.model, seen.unexpected) == (find("111M"), (name,))

    @pytest.mark.parametrize(
        ("name", "expected", "found"),
        [
            ("h.3.mlp.c_fc.weight", (768, 3072), (3072, 768)),
            ("h.3.attn.c_attn.bias", (2304,), (768,)),
            ("wpe.weight", (2048, 768), (1024, 768)),
            ("wte.weight", (50257, 768), (50257, 769)),
            ("ln_f.weight", (768,), (768, 1)),
            ("h.0.attn.bias", (1, 1, 2048, 2048), (2048, 2048)),
        ],
    )
    def test_a_wrong_shape_is_told_with_the_right_one(
        self, name: str, expected: tuple[int, ...], found: tuple[int, ...]
    ) -> None:
        seen = recognise(gpt2(768, 10, prefix="") | {name: tensor(*found)})

        assert seen is not None
        assert (seen.model, seen.complete) == (find("111M"), False)
        assert seen.mismatched == (Mismatch(name, expected, found),)

    def test_a_size_that_nothing_tells_is_told_by_its_name(self) -> None:
        seen = recognise(tiny(prefix="") | {"wte.weight": tensor(64)})

        assert seen is not None
        assert seen.mismatched == (Mismatch("wte.weight", ("vocab_size", 64), (64,)),)

    def test_another_vocabulary_is_another_model(self) -> None:
        seen = recognise(gpt2(768, 10, vocab=50258), find("111M").config)

        assert seen is not None
        assert (seen.model, seen.complete, seen.sizes["vocab_size"]) == (None, True, 50258)
        assert seen.contradictions == ("`config.json` says `vocab_size` is 50257; the tensors have 50258",)

    @pytest.mark.parametrize("prefix", PREFIXES)
    def test_a_tied_head(self, prefix: str) -> None:
        catalogue = gpt2(768, 10, prefix=prefix)

        seen = recognise(catalogue | {"lm_head.weight": catalogue[f"{prefix}wte.weight"]})

        assert seen is not None
        assert (seen.model, seen.complete, seen.tied_head) == (find("111M"), True, "tied")

    def test_an_untied_head(self) -> None:
        seen = recognise(gpt2(768, 10) | {"lm_head.weight": tensor(50257, 768, key="head")})

        assert seen is not None
        assert (seen.model, seen.complete, seen.tied_head) == (find("111M"), True, "untied")

    def test_a_head_of_another_shape_does_not_outvote_the_embedding(self) -> None:
        head = {"lm_head.weight": tensor(50258, 768)}

        seen = recognise(head | gpt2(768, 10))

        assert seen is not None
        assert seen.mismatched == (Mismatch("lm_head.weight", (50257, 768), (50258, 768)),)

    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            ({"n_layer": 12}, "`config.json` says `n_layer` is 12; the tensors have 10"),
            ({"n_layer": 9}, "`config.json` says `n_layer` is 9; the tensors have 10"),
            ({"n_embd": 1024}, "`config.json` says `n_embd` is 1024; the tensors have 768"),
            ({"n_inner": 768}, "`config.json` says `n_inner` is 768; the tensors have 3072"),
            ({"vocab_size": 1}, "`config.json` says `vocab_size` is 1; the tensors have 50257"),
            ({"n_positions": 1024}, "`config.json` says `n_positions` is 1024; the tensors have 2048"),
            ({"n_ctx": 1024}, "`config.json` says `n_ctx` is 1024; the tensors have 2048"),
            ({"n_head": 16}, "`config.json` says `n_head` is 16; Cerebras-GPT-111M has 12"),
            ({"n_head": 7}, "`config.json` says `n_head` is 7; Cerebras-GPT-111M has 12"),
            ({"n_layer": "10"}, "`config.json` says `n_layer` is '10': expected a whole number from 1"),
            ({"model_type": "btlm"}, "`config.json` says `model_type` is 'btlm'; the tensors are those of 'gpt2'"),
        ],
        ids=repr,
    )
    def test_a_config_that_contradicts_the_tensors(self, change: dict[str, object], sentence: str) -> None:
        seen = recognise(gpt2(768, 10), {**find("111M").config, **change})

        assert seen is not None
        assert (seen.model, seen.complete) == (find("111M"), True)
        assert seen.contradictions == (sentence,)

    def test_heads_that_do_not_divide_the_width(self) -> None:
        seen = recognise(tiny(), TINY_CONFIG | {"n_head": 5})

        assert seen is not None
        assert seen.contradictions == ("`config.json` says `n_head` is 5, which does not divide the 64 of `n_embd`",)
        assert "n_head" not in seen.sizes

    def test_a_default_contradicts_too(self) -> None:
        seen = recognise(tiny(inner=100), TINY_CONFIG)

        assert seen is not None
        assert seen.sizes["n_inner"] == 100
        assert seen.contradictions == (
            "`config.json` has no `n_inner`, which then counts as 256; the tensors have 100",
        )

    def test_layers_that_only_config_has_are_missing_and_contradict_an_end_that_is_there(self) -> None:
        seen = recognise(tiny(), TINY_CONFIG | {"n_layer": 5})

        assert seen is not None
        assert len(seen.missing) == 12
        assert seen.contradictions == ("`config.json` says `n_layer` is 5; the tensors have 4",)

    def test_a_config_that_promises_a_million_layers_is_not_believed(self) -> None:
        assert recognise(tiny(), TINY_CONFIG | {"n_layer": 1_000_000}) is None

    def test_a_name_that_promises_a_million_layers_is_not_believed(self) -> None:
        assert recognise(tiny() | {"transformer.h.999999.ln_1.weight": tensor(64)}) is None

    def test_a_mixture_of_prefixes_is_nothing(self) -> None:
        assert recognise(gpt2(768, 10) | {"wte.weight": tensor(50257, 768)}) is None

    @pytest.mark.parametrize(
        "layer",
        [
            # GPT-Neo: matrices are [out, in], and q, k and v apart
            {
                **dict.fromkeys(("ln_1.weight", "ln_1.bias", "ln_2.weight", "ln_2.bias", "mlp.c_proj.bias"), (64,)),
                **dict.fromkeys((f"attn.attention.{part}_proj.weight" for part in ("q", "k", "v", "out")), (64, 64)),
                "mlp.c_fc.weight": (256, 64),
                "mlp.c_fc.bias": (256,),
                "mlp.c_proj.weight": (64, 256),
            },
            # StarCoder: GPT-2's names, [out, in], and one key and value for all heads
            {
                **dict.fromkeys(("ln_1.weight", "ln_1.bias", "ln_2.weight", "ln_2.bias", "mlp.c_proj.bias"), (64,)),
                "attn.c_attn.weight": (96, 64),
                "attn.c_attn.bias": (96,),
                "attn.c_proj.weight": (64, 64),
                "mlp.c_fc.weight": (256, 64),
                "mlp.c_fc.bias": (256,),
                "mlp.c_proj.weight": (64, 256),
            },
        ],
        ids=["GPT-Neo", "StarCoder"],
    )
    def test_a_cousin_is_not_taken_for_gpt2(self, layer: dict[str, tuple[int, ...]]) -> None:
        ends = dict.fromkeys(("ln_f.weight", "ln_f.bias"), (64,)) | {"wte.weight": (99, 64), "wpe.weight": (32, 64)}
        shapes = ends | {f"h.{n}.{name}": shape for n in range(4) for name, shape in layer.items()}

        assert recognise({f"transformer.{name}": tensor(*shape) for name, shape in shapes.items()}) is None

    def test_an_empty_catalogue_is_nothing(self) -> None:
        assert recognise({}) is None
        assert recognise({"weight": tensor(3, 4), "h.0.bias": tensor(4)}) is None
        assert recognise(gpt2(768, 10, prefix="model.")) is None

    def test_twice_the_other_tensors_take_twice_the_steps(self) -> None:
        one = tensor(4, 4)

        def cost(count: int) -> int:
            strangers = {f"model.layers.{n}.self_attn.q_proj.weight": one for n in range(count)}
            relatives = {name: one for n in range(count) for name in (f"h.{n}.ln_1.weight", f"h.{n}.q_proj.weight")}
            return steps(lambda: (recognise(strangers), recognise(relatives)))

        once, twice = cost(2_000), cost(4_000)

        assert once > 2_000
        assert twice < 2.1 * once

    def test_a_model_twice_as_deep_takes_twice_the_steps(self) -> None:
        def cost(layers: int) -> int:
            catalogue = gpt2(4, layers, vocab=5, positions=3)
            seen = recognise(catalogue)
            assert seen is not None
            assert (seen.complete, seen.sizes["n_layer"]) == (True, layers)
            return steps(lambda: recognise(catalogue))

        once, twice = cost(300), cost(600)

        assert once > 300
        assert twice < 2.1 * once


class TestFolders:
    """parameters/ repeats what schemas/ declares."""

    def test_there_is_a_folder_a_model(self) -> None:
        assert {path.parent.name for path in PARAMETERS.glob("*/README.md")} == {model.name for model in declared()}

    @pytest.mark.parametrize("short", FACTS)
    def test_the_page_of_a_model_says_what_is_declared(self, short: str) -> None:
        n_embd, n_layer, n_head, parameters, storages, nbytes, stored = FACTS[short]
        model, text = find(short), (PARAMETERS / f"Cerebras-GPT-{short}" / "README.md").read_text(encoding="utf-8")

        assert text.startswith(f"# Cerebras-GPT {short}\n")
        assert f"{parameters:,} parameters in {n_layer} layers of {n_embd} with {n_head} heads" in text
        for file in model.files:
            size = f"{nbytes:,} bytes" if nbytes else file.listed_size
            assert f"* [{file.name}]({file.url}), {size}\n" in text
            assert file.listed_size in text or file.nbytes_is == "published"
        for beside in (*model.companions, *([model.index] if model.index else [])):
            assert f"[{beside}]({model.url(beside)})" in text
        assert f"cerebras-tool download {short} checkpoints/{model.name}\n" in text
        assert f"cerebras-tool extract checkpoints/{model.name}\n" in text
        assert all(f"{count} " in text or f"`0` to `{count - 1}`" in text for count in storages)
        assert f"{stored:,} bytes together" in text
        assert f"{4 + 16 * n_layer} files,\n  {4 * parameters:,} bytes" in text

    @pytest.mark.parametrize("short", FACTS)
    def test_its_hashes_are_those_that_are_declared(self, short: str) -> None:
        text = (PARAMETERS / f"Cerebras-GPT-{short}" / "README.md").read_text(encoding="utf-8")
        known = {hash for file in find(short).files for hash in (file.sha256, file.superseded_sha256) if hash}

        assert {word.strip("`") for word in text.split() if len(word.strip("`")) == 64} == known
        assert ("not known" in text) == (not known) or short == "13B"

    def test_the_table_of_all_has_a_line_a_model(self) -> None:
        text = (PARAMETERS / "README.md").read_text(encoding="utf-8")

        for model in declared():
            sizes = " + ".join(file.listed_size for file in model.files)
            assert (
                f"| {model.short} | {model.parameters:,} | {sizes} | [{model.name}]({model.name}/README.md) |" in text
            )
