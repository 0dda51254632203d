"""Rules on names: what is carried over, under which names, in which dtype. Expected names and values are literals."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import converter
from converter.cli.app import app
from converter.conversion.convert import convert
from converter.conversion.extract import extract
from converter.conversion.globs import Rename, fitting
from converter.conversion.surgery import Surgery, cut, rules
from converter.errors import ConverterError, ManifestError, ModelError, RuleError, UnsupportedError, WordError
from converter.opening import open_checkpoint
from converter.sample import write_sample
from converter.tensors.catalogue import Catalogue, Unsupported
from tests.build.checkpoints import floats, view, write_checkpoint
from tests.build.ends import ends
from tests.build.steps import steps

RUN = CliRunner()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    write_sample(folder, "tiny")
    return folder


def few(path: Path, *names: str) -> Catalogue:
    """A checkpoint of these names; the tensor number k is [k, k]."""
    tensors = {name: view(str(at), (2,)) for at, name in enumerate(names)}
    return open_checkpoint(write_checkpoint(path, tensors, {str(at): floats(at, at) for at in range(len(names))}))


def first_elements(catalogue: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(tensor.bits().flat[0]) for name, tensor in catalogue.items()}


# ---- one rule -------------------------------------------------------------------------------------------------------

RENAMES = [
    ("a", "b", "a", "b"),
    ("a", "b", "aa", None),
    ("*", "x.*", "w", "x.w"),
    ("net.*", "*", "net.a.b", "a.b"),
    ("net.*", "*", "a.net.b", None),
    ("*.gamma", "*.weight", "ln.1.gamma", "ln.1.weight"),
    ("*.*", "{2}.{1}", "a.b.c", "b.c.a"),  # the first matches as little as it can, the last one the rest
    ("h.*.attn.*", "layers.*.self.*", "h.0.attn.attn.w", "layers.0.self.attn.w"),
    ("*.attn.*", "{2}", "a.attn.b.attn.c", "b.attn.c"),
    ("*ab", "<*>", "aabab", "<aab>"),
    ("?.*", "*-*", "a.b", "a-b"),
    ("[hl].[!0].w", "*/*", "l.1.w", "l/1"),
    ("[hl].[!0].w", "*/*", "l.0.w", None),
    ("[]a]x", "*", "]x", "]"),
    ("[*]", "star", "*", "star"),
    ("[", "bracket", "[", "bracket"),
    ("a.*", "{1}.{1}", "a.b", "b.b"),
    ("*.x", "same", "a.x", "same"),
    ("a\n*", "*", "a\nb", "b"),
    ("ä*", "ö*", "äü", "öü"),
    ("*", "{0x}*", "a", "{0x}a"),
    ("a**b", "*|*", "axyb", "|xy"),
]


@pytest.mark.parametrize(("old", "new", "name", "expected"), RENAMES)
def test_a_rename_carries_over_what_the_wildcards_took(old: str, new: str, name: str, expected: str | None) -> None:
    assert Rename(old, new)(name) == expected
    assert bool(fitting(old)(name)) == (expected is not None)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("a", "*", "1 `*` in NEW for 0 wildcards"),
        ("*.*", "*", "1 `*` in NEW for 2 wildcards"),
        ("*", "*{1}", "1 `*` and 1 number"),
        ("*", "{2}", "{2}: OLD has 1 wildcard,"),
        ("*", "{0}", "{0}: OLD has 1 wildcard,"),
        ("", "a", "empty side"),
        ("a", "", "empty side"),
    ],
)
def test_a_rename_that_can_not_be_meant_is_one_sentence(old: str, new: str, said: str) -> None:
    with pytest.raises(RuleError) as error:
        Rename(old, new)

    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_no_glob_takes_long() -> None:
    with ends():
        for glob in ("*a" * 200 + "b", "*" * 400 + "b", "[ab]*" * 200 + "c"):
            assert not fitting(glob)("a" * 20_000)
        rule = Rename("*a" * 40 + "*b", "{1}")
        assert rule("a" * 5_000 + "b") == ""
        assert rule("a" * 5_000) is None


# ---- reading rules --------------------------------------------------------------------------------------------------


def test_rules_come_as_texts_as_a_dict_or_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "rules.json"
    file.write_text('{"b.*": "a.*", "x=y": "z"}')
    expected = (Rename("b.*", "a.*"), Rename("x=y", "z"))

    assert rules(rename=[str(file)]).renames == expected
    assert rules(rename={"b.*": "a.*", "x=y": "z"}).renames == expected
    assert rules(rename=["q=r", str(file)]).renames == (Rename("q", "r"), *expected)
    assert rules(tensor_type=["*=float16", "a=Q8_0"]).types == (("*", "f16"), ("a", "q8_0"))
    assert rules(tensor_type={"*": "fp32"}).types == (("*", "f32"),)
    assert not rules()
    assert rules(include=["a"])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rename": ["a"]}, "expected OLD=NEW, with one `=`"),
        ({"rename": ["a=b=c"]}, "write it into a .json file"),
        ({"rename": ["=b"]}, "with neither side empty"),
        ({"rename": ["b="]}, "with neither side empty"),
        ({"rename": "a=b"}, "a list of OLD=NEW, or a dict"),
        ({"rename": {"a": 1}}, "a text was expected"),
        ({"rename": [3]}, "expected OLD=NEW"),
        ({"tensor_type": ["a"]}, "expected GLOB=TYPE"),
        ({"tensor_type": ["a=f99"]}, "choose keep, f32"),
        ({"include": "abc"}, "a list of texts"),
        ({"exclude": [""]}, "none of them empty"),
        ({"strip": ["gradients"]}, "choose optimizer, ema"),
    ],
)
def test_a_malformed_rule_is_one_sentence(given: dict[str, Any], said: str) -> None:
    with pytest.raises((RuleError, WordError)) as error:
        rules(**given)

    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["[]", "{", '{"a": 1}', '{"a": "b", "a": "c"}', '{"*": "*.*"}'])
def test_a_malformed_file_of_rules_is_one_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / "rules.json").write_text(text)

    with pytest.raises((RuleError, ManifestError)) as error:
        rules(rename=[str(tmp_path / "rules.json")])
    assert "\n" not in str(error.value)
    with pytest.raises(ConverterError, match="absent"):
        rules(rename=[str(tmp_path / "absent.json")])


# ---- what is carried over -------------------------------------------------------------------------------------------


def test_exclude_wins_over_include(tmp_path: Path) -> None:
    source = few(tmp_path / "x.bin", "a.w", "a.b", "b.w", "b.b")

    done = cut(source, rules(include=["a.*", "b.w"], exclude=["*.b"]))

    assert first_elements(done.catalogue) == {"a.w": 0, "b.w": 2}
    assert done.excluded == ("a.b", "b.b")
    assert done.notes == ()


def test_a_rule_that_fits_nothing_is_said(tmp_path: Path) -> None:
    source = few(tmp_path / "x.bin", "a", "b")

    done = cut(source, rules(include=["*"], exclude=["r"], rename=["s=t"], tensor_type=["u=f16"]))

    assert done.notes == (
        "`r` matches no tensor", "`s=t` matches no tensor",
        "`u=f16` matches no tensor of floating-point numbers",
    )  # fmt: skip
    assert list(done.catalogue) == ["a", "b"]


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"include": ["*", "q"]}, "no tensor fits include `q`; did you mean `b`, `a`?"),
        ({"exclude": ["*"]}, "such as `a`: the rules leave all of them out"),
    ],
)
def test_nothing_left_is_one_sentence(rule: dict[str, list[str]], said: str, tmp_path: Path) -> None:
    with pytest.raises(RuleError) as error:
        cut(few(tmp_path / "x.bin", "a", "b"), rules(**rule))

    assert said in str(error.value)


def test_no_rules_change_nothing(tiny: Path) -> None:
    source = open_checkpoint(tiny)

    done = cut(source, Surgery())

    assert dict(done.catalogue) == dict(source)
    assert (done.excluded, done.renamed, done.types, done.notes) == ((), (), {}, ())


def test_exclude_is_the_way_past_a_tensor_that_can_not_be_carried_over(tmp_path: Path) -> None:
    from dataclasses import replace

    source = replace(few(tmp_path / "x.bin", "a"), unsupported=(Unsupported("s", "sparse"),))
    with pytest.raises(UnsupportedError, match="--exclude"):
        convert(source, tmp_path / "y.safetensors")

    report = convert(source, tmp_path / "y.safetensors", surgery=rules(exclude=["s"]))

    assert (report.tensors, report.excluded, [left.name for left in report.dropped]) == (1, ("s",), ["s"])


def test_a_shard_that_is_absent_is_left_out_by_name(tmp_path: Path) -> None:
    from dataclasses import replace

    source = replace(few(tmp_path / "x.bin", "a"), missing=("b",))
    with pytest.raises(ManifestError):
        convert(source, tmp_path / "y.safetensors")

    assert convert(source, tmp_path / "y.safetensors", surgery=rules(exclude=["b"])).excluded == ("b",)


@pytest.mark.parametrize(
    "glob",
    [
        "transformer.h.2.attn.c_attn.weight",  # in the file
        "h.2.attn.c_attn.weight",  # as `verify` calls it
        "blk.2.attn_qkv.weight",  # in GGUF
        "*.2.attn_qkv.*ght",
    ],
)
@pytest.mark.parametrize("kind", ["torch", "gguf"])
def test_a_glob_takes_every_name_that_a_tensor_has(glob: str, kind: str, tiny: Path, tmp_path: Path) -> None:
    source = tiny
    if kind == "gguf":
        source = tmp_path / "x.gguf"
        convert(open_checkpoint(tiny), source)

    done = cut(open_checkpoint(source), rules(include=[glob]))

    assert list(done.catalogue) == ["transformer.h.2.attn.c_attn.weight"]


# ---- names ----------------------------------------------------------------------------------------------------------


def test_renames_are_applied_in_order(tmp_path: Path) -> None:
    source = few(tmp_path / "x.bin", "net.a", "net.b.gamma", "c")

    done = cut(source, rules(rename=["net.*=*", "*.gamma=*.weight", "a=net.a"]))

    assert first_elements(done.catalogue) == {"net.a": 0, "b.weight": 1, "c": 2}
    assert done.renamed == (("net.b.gamma", "b.weight"),)


def test_layers_can_be_shifted_by_one_rule(tmp_path: Path) -> None:
    source = few(tmp_path / "x.bin", "h.1.w", "h.2.w")

    assert list(cut(source, rules(rename=["h.1.*=h.0.*", "h.2.*=h.1.*"])).catalogue) == ["h.0.w", "h.1.w"]


def test_a_collision_is_refused_with_both_names(tmp_path: Path) -> None:
    source = few(tmp_path / "x.bin", "a.w", "b.w", "c")

    with pytest.raises(RuleError, match=r"`a\.w` and `b\.w` would both be called `w` by the rename `\?\.w=w`"):
        cut(source, rules(rename=["?.w=w"]))
    with pytest.raises(RuleError, match=r"`a\.w` and `c` would both be called `c`"):
        cut(source, rules(rename=["a.w=c"]))
    assert list(cut(source, rules(rename=["a.w=c"], exclude=["c"])).catalogue) == ["c", "b.w"]
    with pytest.raises(RuleError, match="leaves no name for `c`"):
        cut(source, rules(rename=["c*=*"]))


def test_a_family_is_recognised_after_the_renames(tiny: Path, tmp_path: Path) -> None:
    convert(open_checkpoint(tiny), tmp_path / "x.safetensors", surgery=rules(rename=["transformer.h.*=net.layers.*"]))
    (tmp_path / "config.json").write_bytes((tiny / "config.json").read_bytes())
    strange = open_checkpoint(tmp_path / "x.safetensors")
    with pytest.raises(UnsupportedError, match="no architecture"):
        convert(strange, tmp_path / "no.gguf")

    back = rules(rename=["net.layers.*=transformer.h.*"])
    report = convert(strange, tmp_path / "y.gguf", surgery=back, tokenizer=tiny)
    convert(open_checkpoint(tiny), tmp_path / "z.gguf", tokenizer=tiny)

    assert len(report.renamed) == 56
    whole, again = (open_checkpoint(tmp_path / name) for name in ("z.gguf", "y.gguf"))
    assert first_elements(whole) == first_elements(again)


def test_a_rename_takes_the_name_in_the_file_or_in_the_family(tiny: Path, tmp_path: Path) -> None:
    convert(open_checkpoint(tiny), tmp_path / "x.gguf")
    source = open_checkpoint(tmp_path / "x.gguf")

    theirs = cut(source, rules(include=["*wte*"], rename=["token_embd.*=embedding.*"]))
    ours = cut(source, rules(include=["*wte*"], rename=["transformer.wte.*=embedding.*"]))

    assert list(theirs.catalogue) == list(ours.catalogue) == ["embedding.weight"]
    assert ours.renamed == (("transformer.wte.weight", "embedding.weight"),)


# ---- ties -----------------------------------------------------------------------------------------------------------


def test_what_is_left_of_tied_tensors_is_right(tmp_path: Path) -> None:
    shared = view("0", (2,))
    path = write_checkpoint(tmp_path / "x.bin", {"a": shared, "b": shared, "c": shared}, {"0": floats(5.0, 6.0)})
    source = open_checkpoint(path)
    both = convert(source, tmp_path / "both.safetensors", surgery=rules(exclude=["a"], rename=["c=d"]))
    one = convert(source, tmp_path / "one.safetensors", surgery=rules(include=["b"]))

    assert both.tied == (("d", "b"),)
    assert first_elements(open_checkpoint(tmp_path / "both.safetensors")) == {"b": 5, "d": 5}
    assert one.tied == ()
    assert first_elements(open_checkpoint(tmp_path / "one.safetensors")) == {"b": 5}
    extract(source, tmp_path / "plain", surgery=rules(exclude=["a", "b"]))
    assert first_elements(open_checkpoint(tmp_path / "plain")) == {"c": 5}
    assert sorted(path.name for path in (tmp_path / "plain").iterdir()) == ["0", "manifest.json"]


# ---- dtypes ---------------------------------------------------------------------------------------------------------


def test_the_last_type_that_fits_counts(tmp_path: Path) -> None:
    source = few(tmp_path / "x.bin", "a.w", "a.norm", "b.w")
    surgery = rules(tensor_type=["*=bf16", "*norm=keep", "b.*=f16"], rename=["a.*=q.*"])

    for output in ("y.safetensors", "y.npz"):
        convert(source, tmp_path / output, dtype="f16", surgery=surgery)
        back = open_checkpoint(tmp_path / output)
        assert {name: tensor.dtype.name for name, tensor in back.items()} == {
            "q.w": "BF16",
            "q.norm": "F32",
            "b.w": "F16",
        }


def test_gguf_has_types_by_name_and_says_what_stays(tiny: Path, tmp_path: Path) -> None:
    surgery = rules(tensor_type=["blk.0.*=q4_0", "*mlp.c_fc*=f16", "blk.1.ffn_up.weight=q5_1", "*wpe*=f32"])

    report = convert(open_checkpoint(tiny), tmp_path / "x.gguf", dtype="q8_0", surgery=surgery)

    types = {tensor.name: tensor.dtype for tensor in report.files[0].tensors}
    assert types["blk.0.attn_qkv.weight"] == "Q4_0"
    assert types["blk.0.ffn_up.weight"] == types["blk.2.ffn_up.weight"] == "F16"
    assert types["blk.1.ffn_up.weight"] == "Q5_1"
    assert types["blk.1.attn_qkv.weight"] == "Q8_0"
    assert types["blk.0.attn_norm.weight"] == types["position_embd.weight"] == "F32"
    # Six vectors of the first layer for blk.0.*, and the three biases of c_fc in the others: each of them is reported.
    assert any("of the tensors that --tensor-type names stay F32" in note for note in report.notes)
    assert not any("position_embd" in note for note in report.notes)


def test_only_floating_point_tensors_get_a_type(tiny: Path) -> None:
    done = cut(open_checkpoint(tiny), rules(tensor_type=["*=f16"]))

    assert len(done.types) == 56  # 60 without the four masks of bytes
    assert done.notes == ()
    assert cut(open_checkpoint(tiny), rules(tensor_type=["h.0.attn.bias=bf16"])).notes == (
        "`h.0.attn.bias=bf16` matches no tensor of floating-point numbers",
    )


def test_a_type_that_a_format_lacks_is_one_sentence(tmp_path: Path) -> None:
    source = few(tmp_path / "x.bin", "a")

    with pytest.raises(UnsupportedError, match="has no dtype Q8_0"):
        convert(source, tmp_path / "y.safetensors", surgery=rules(tensor_type=["a=q8_0"]))
    with pytest.raises(UnsupportedError, match="has no dtype F16"):
        convert(source, tmp_path / "y", to="parameters", surgery=rules(tensor_type=["a=f16"]))


# ---- parts ----------------------------------------------------------------------------------------------------------


def test_what_a_trainer_needs_is_stripped_by_word(tmp_path: Path) -> None:
    names = ("model.w", "optimizer.state.0.exp_avg", "lr_scheduler.x", "ema.model.w", "lossless.w")
    source = few(tmp_path / "x.bin", *names)

    done = cut(source, rules(strip=["optimizer", "ema"]))

    assert list(done.catalogue) == ["model.w", "lossless.w"]
    assert done.excluded == names[1:4]
    assert cut(few(tmp_path / "y.bin", "w"), rules(strip=["ema"])).notes == ("there is no ema to strip",)


def test_state_that_is_not_written_anyway_is_named(tmp_path: Path) -> None:
    value = {
        "state_dict": {"w": view("0", (2,))},
        "optimizer": {"state": {0: {"m": view("1", (2,))}}, "param_groups": []},
    }
    path = write_checkpoint(tmp_path / "x.bin", value, {"0": floats(1, 2), "1": floats(3, 4)})

    done = cut(open_checkpoint(path), rules(strip=["optimizer"]))

    assert list(done.catalogue) == ["w"]
    assert done.notes == ("`optimizer` lies beside the weights, not among them, so there is nothing to strip",)
    path = write_checkpoint(
        tmp_path / "two.bin", {**value, "optim": {"lr": 0.1}}, {"0": floats(1, 2), "1": floats(3, 4)}
    )
    assert cut(open_checkpoint(path), rules(strip=["optimizer"])).notes == (
        "`optimizer`, `optim` lie beside the weights, not among them, so there is nothing to strip",
    )


# ---- what goes along ------------------------------------------------------------------------------------------------


def test_a_config_that_does_not_fit_what_is_left_stays_behind(tiny: Path, tmp_path: Path) -> None:
    source, surgery = open_checkpoint(tiny), rules(exclude=["h.3.*"])

    report = convert(source, tmp_path / "out", to="safetensors", surgery=surgery)

    assert not (tmp_path / "out" / "config.json").exists()
    assert "n_layer" in " ".join(report.notes)
    with pytest.raises(ModelError, match="n_layer"):
        convert(source, tmp_path / "out.gguf", surgery=surgery)
    convert(source, tmp_path / "part", to="safetensors", surgery=rules(exclude=["*wpe*"]))
    assert json.loads((tmp_path / "part" / "config.json").read_text())["n_layer"] == 4


def test_other_rules_make_another_run_of_resume(tiny: Path, tmp_path: Path) -> None:
    source = open_checkpoint(tiny)

    class Stop(Exception):  # noqa: N818
        pass

    def stop(nbytes: int) -> None:
        raise Stop

    with pytest.raises(Stop):
        convert(source, tmp_path / "x.npz", resume=True, surgery=rules(tensor_type=["*wte*=f16"]), progress=stop)
    convert(source, tmp_path / "x.npz", resume=True, surgery=rules(rename=["transformer.*=*"]))
    convert(source, tmp_path / "y.npz", surgery=rules(rename=["transformer.*=*"]))

    assert (tmp_path / "x.npz").read_bytes() == (tmp_path / "y.npz").read_bytes()


def test_twice_the_names_take_twice_the_steps(tmp_path: Path) -> None:
    source = few(tmp_path / "x.bin", "w")
    (tensor,) = source.values()
    surgery = rules(
        exclude=["*.1.*", "*9.mlp.*"], rename=["model.*=*", "layers.*.mlp.*=h.*.mlp.*"], tensor_type=["*mlp*=f16"]
    )

    def cost(count: int) -> int:
        named = {f"model.layers.{at}.mlp.weight": tensor for at in range(count)}
        many = source.with_tensors(named, source.storages)
        done = cut(many, surgery)
        assert len(done.catalogue) == count * 9 // 10 - 1
        assert "h.2.mlp.weight" in done.catalogue
        return steps(lambda: cut(many, surgery))

    once, twice = cost(1_000), cost(2_000)

    assert once > 1_000
    assert twice < 2.1 * once


def test_a_dry_run_shows_the_result_and_numbers_stay(tiny: Path, tmp_path: Path) -> None:
    surgery = rules(include=["*wte*"], rename=["transformer.wte.*=e.*"])

    planned = convert(open_checkpoint(tiny), tmp_path / "x.safetensors", dry_run=True, surgery=surgery)
    assert not (tmp_path / "x.safetensors").exists()
    convert(open_checkpoint(tiny), tmp_path / "x.safetensors", surgery=surgery)

    assert [tensor.name for tensor in planned.files[0].tensors] == ["e.weight"]
    expected = open_checkpoint(tiny)["transformer.wte.weight"].bits()
    assert np.array_equal(open_checkpoint(tmp_path / "x.safetensors")["e.weight"].bits(), expected)


# ---- several checkpoints --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["x.safetensors", "x.npz", "folder"])
def test_checkpoints_of_any_formats_are_merged(output: str, tmp_path: Path) -> None:
    few(tmp_path / "a.bin", "a", "b")  # both call their storages 0 and 1
    few(tmp_path / "c.bin", "c", "d")
    converter.convert(few(tmp_path / "e.bin", "e", "f"), tmp_path / "e.npz")
    wished: dict[str, Any] = {"merge": [tmp_path / "c.bin", tmp_path / "e.npz"], "rename": {"d": "q"}, "exclude": ["e"]}
    to: Any = "parameters" if output == "folder" else None

    report = converter.convert(tmp_path / "a.bin", tmp_path / output, to=to, **wished)

    assert first_elements(open_checkpoint(tmp_path / output)) == {"a": 0, "b": 1, "c": 0, "q": 1, "f": 1}
    assert report.notes[0] == f"merged with `{tmp_path / 'c.bin'}`, `{tmp_path / 'e.npz'}`"
    assert converter.verify(tmp_path / "a.bin", tmp_path / output, **wished).ok
    assert not converter.verify(tmp_path / "a.bin", tmp_path / output).ok


def test_a_model_is_whole_again_after_a_merge(tiny: Path, tmp_path: Path) -> None:
    converter.convert(tiny, tmp_path / "embedding.npz", include=["wte.weight", "wpe.weight"])
    rest = tmp_path / "part" / tiny.name  # the folder's name goes into the file
    rest.parent.mkdir()
    converter.convert(tiny, rest, to="safetensors", exclude=["wte.weight", "wpe.weight"])
    with pytest.raises(ModelError):
        converter.convert(rest, tmp_path / "x.gguf")

    done = RUN.invoke(app, ["convert", str(rest), str(tmp_path / "x.gguf"), "--merge", str(tmp_path / "embedding.npz")])
    converter.convert(tiny, tmp_path / "y.gguf")

    assert done.exit_code == 0, done.stderr
    assert converter.verify(tiny, tmp_path / "x.gguf").ok
    assert (tmp_path / "x.gguf").read_bytes() == (tmp_path / "y.gguf").read_bytes()


def test_a_name_in_two_checkpoints_is_refused_with_both_places(tmp_path: Path) -> None:
    few(tmp_path / "a.bin", "a", "b")
    few(tmp_path / "b.bin", "b", "c")

    with pytest.raises(RuleError, match=r"`b` is in `.*a\.bin` and in `.*b\.bin`: convert one of them first"):
        converter.convert(tmp_path / "a.bin", tmp_path / "x.npz", merge=[tmp_path / "b.bin"])


def test_an_input_of_a_merge_is_never_overwritten(tmp_path: Path) -> None:
    few(tmp_path / "a.bin", "a")
    converter.convert(few(tmp_path / "b.bin", "b"), tmp_path / "b.npz")
    before = (tmp_path / "b.npz").read_bytes()

    with pytest.raises(ConverterError, match="input"):
        converter.convert(tmp_path / "a.bin", tmp_path / "b.npz", merge=[tmp_path / "b.npz"], force=True)

    assert (tmp_path / "b.npz").read_bytes() == before


# ---- verify ---------------------------------------------------------------------------------------------------------


def test_verify_says_what_a_copy_lacks_and_takes_the_same_rules(tiny: Path, tmp_path: Path) -> None:
    wished: dict[str, Any] = {"exclude": ["*wpe*", "h.3.*"], "rename": {"transformer.h.*": "layers.*"}}
    for output in ("x.safetensors", "x.npz"):
        converter.convert(tiny, tmp_path / output, **wished)
        plain = converter.verify(tiny, tmp_path / output).outputs[0]
        same = converter.verify(tiny, tmp_path / output, **wished).outputs[0]

        assert plain.verdict == "different"
        assert "wpe.weight" in plain.tensors.missing
        assert (same.verdict, same.tensors.missing, same.tensors.different) == ("identical", (), ())
        # 60 tensors without wpe and the last layer of 14
        assert same.tensors.compared == 45


def test_a_wrong_rule_for_verify_is_found(tiny: Path, tmp_path: Path) -> None:
    converter.convert(tiny, tmp_path / "x.npz", exclude=["*wpe*"])

    assert not converter.verify(tiny, tmp_path / "x.npz", exclude=["*wte*"]).ok


def test_a_manifest_of_digests_takes_no_rules(tiny: Path, tmp_path: Path) -> None:
    from converter.verification.expected import expect
    from converter.verification.verify import examine, write_golden

    converter.convert(tiny, tmp_path / "x.npz")
    found = examine(expect(open_checkpoint(tiny)), [tmp_path / "x.npz"])
    write_golden(found.golden(), tmp_path / "golden.json", inputs=[])

    assert converter.verify(tmp_path / "golden.json", tmp_path / "x.npz").ok
    with pytest.raises(UnsupportedError, match="nothing can be left out, renamed or merged: give the checkpoint"):
        converter.verify(tmp_path / "golden.json", tmp_path / "x.npz", exclude=["*wpe*"])


# ---- the commands ---------------------------------------------------------------------------------------------------


def test_the_commands_take_every_rule(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "rules.json").write_text('{"transformer.*": "net.*"}')
    common = [
        "--exclude",
        "*wpe*",
        "--exclude",
        "h.3.*",
        "--strip",
        "optimizer",
        "--rename",
        str(tmp_path / "rules.json"),
    ]
    out = str(tmp_path / "x.safetensors")

    done = RUN.invoke(
        app, ["convert", str(tiny), out, *common, "--tensor-type", "blk.0.attn_qkv.weight=fp16", "--json"]
    )
    named = RUN.invoke(app, ["extract", str(tiny), str(tmp_path / "named"), "--form", "named", *common])
    proof = RUN.invoke(app, ["verify", str(tiny), out, str(tmp_path / "named"), *common])
    lacking = RUN.invoke(app, ["verify", str(tiny), out])

    assert (done.exit_code, named.exit_code, proof.exit_code, lacking.exit_code) == (0, 0, 0, 1)
    report = json.loads(done.stdout)
    assert {"net.wte.weight", "net.ln_f.bias"} < {tensor["name"] for tensor in report["files"][0]["tensors"]}
    assert {t["name"] for t in report["files"][0]["tensors"] if t["dtype"] == "F16"} == {"net.h.0.attn.c_attn.weight"}
    assert len(report["excluded"]) == 15
    assert report["excluded"][0] == "transformer.wpe.weight"
    assert set(report["excluded"]) <= {left["name"] for left in report["dropped"]}
    assert ["transformer.wte.weight", "net.wte.weight"] in report["renamed"]
    assert "15 tensors left out, as asked: `transformer.wpe.weight`" in named.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["--rename", "a"],
        ["--rename", "*=*.*"],
        ["--rename", "absent.json"],
        ["--tensor-type", "*"],
        ["--tensor-type", "*=x"],
        ["--strip", "x"],
        ["--include", "nothing"],
        ["--exclude", ""],
        ["--rename", "*.wte.*=x", "--rename", "*.wpe.*=x"],
    ],
)
def test_a_malformed_rule_ends_with_two(arguments: list[str], tiny: Path, tmp_path: Path) -> None:
    done = RUN.invoke(app, ["convert", str(tiny), str(tmp_path / "x.npz"), *arguments])

    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")
    assert not (tmp_path / "x.npz").exists()
