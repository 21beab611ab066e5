"""LinVT before image-LLMs of transformers: what each family must do alike."""

import ast
from contextlib import nullcontext
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file
from tiny_image_llms import (
    CASES,
    IMAGE,
    VIDEO,
    extend,
    image_media,
    make_frames,
    make_image_llm,
    make_linvt,
    make_processor,
    prompt,
    videos,
    without_foreign,
)
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText

from hf_videollm.models import linvt_backbones, linvt_families
from hf_videollm.models.linvt_backbones import Backbone
from hf_videollm.models.linvt_families import REFUSED
from hf_videollm.models.linvt_frames import frame_inputs
from hf_videollm.models.modeling_linvt import LinVTForCausalLM
from hf_videollm.models.video_llm_vision_tower import vision_layers

FAMILIES = pytest.mark.parametrize("name", CASES)
TINY = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50}


def step_logits(model, inputs, **options):
    """Scores of each generated token, `(rows, steps, vocabulary)`, and the tokens; none of them a placeholder."""
    options = {"output_logits": True, "return_dict_in_generate": True, "suppress_tokens": [IMAGE, VIDEO], **options}
    outputs = model.generate(**inputs, max_new_tokens=4, do_sample=False, **options)
    return torch.stack(outputs.logits, 1), outputs.sequences


@FAMILIES
@torch.no_grad()
def test_images_bypass_linvt_bitwise(name):
    image_llm, model = make_image_llm(name), make_linvt(name)
    media, lengths = image_media(name, image_llm.model, make_frames(2))
    batch = prompt(model, [[5, ("i", lengths[0]), 7, ("i", lengths[1]), 8, 9], [3, 4]])
    given = without_foreign(image_llm, batch)
    expected = image_llm(**given, **media).logits
    assert torch.equal(model(**batch, **media).logits, expected)
    media["pixel_values"] = media["pixel_values"].flip(0) * 0.5
    assert not torch.allclose(model(**batch, **media).logits, expected, atol=1e-3), "the images must count"


@FAMILIES
@torch.no_grad()
def test_generate_with_images_is_that_of_the_backbone(name):
    image_llm, model = make_image_llm(name), make_linvt(name)
    media, lengths = image_media(name, image_llm.model, make_frames(2))
    batch = prompt(model, [[5, ("i", lengths[0]), 7, ("i", lengths[1]), 8, 9], [3, 4]])
    given = without_foreign(image_llm, batch)
    expected, tokens = step_logits(image_llm, {**given, **media})
    found, sequences = step_logits(model, {**batch, **media})
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert torch.equal(sequences, tokens)


@FAMILIES
@torch.no_grad()
def test_features_are_per_frame(name):
    model = make_linvt(name).model
    media = videos(name, [make_frames(3), make_frames(2, seed=1)])
    counts = media.pop("num_video_frames").tolist()
    plain = {key.removesuffix("_videos"): value for key, value in media.items()}
    first, second = Backbone(model.backbone).encode_frames(plain, counts).tokens
    assert first.ndim == 3
    assert (len(first), len(second)) == (3, 2)
    assert first.shape[1:] == second.shape[1:]
    # Frame by frame, each beside a dark one, so that none is cut up as a single image would be.
    for number, frame in enumerate(make_frames(3)):
        alone = videos(name, [[frame, frame * 0]])
        del alone["num_video_frames"]
        features = (
            Backbone(model.backbone).encode_frames({k.removesuffix("_videos"): v for k, v in alone.items()}, [2]).tokens
        )
        torch.testing.assert_close(features[0][0], first[number], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(first[0], first[1], atol=1e-2)


LAYERED = [name for name, (model_type, *_) in CASES.items() if model_type in linvt_families.LAYER_FAMILIES]


@pytest.mark.parametrize("runs_all", [False, True])
@pytest.mark.parametrize("name", LAYERED)
@torch.no_grad()
def test_the_tower_stops_after_the_last_layer_that_is_used(name, runs_all, monkeypatch):
    """The features are those of the image-LLM itself, bit by bit, with fewer layers where some are not used."""
    image_llm, model = make_image_llm(name), make_linvt(name)
    backbone = model.model.image_llm
    tower = backbone.model.vision_tower
    layers = vision_layers(tower)
    if runs_all:  # the control: all layers run
        monkeypatch.setattr(linvt_backbones, "used_layers", lambda tower, selected: nullcontext())
    ran = []
    for layer in layers:
        layer.register_forward_hook(lambda module, inputs, output: ran.append(module))
    media, _ = image_media(name, image_llm.model, make_frames(2))
    tokens = backbone.encode_images(media).tokens
    expected = image_llm.model.get_image_features(**media, return_dict=True).pooler_output
    assert all(torch.equal(one, other.flatten(0, -2)) for one, other in zip(tokens, expected, strict=True))
    selected = (
        getattr(backbone.model.config, "vision_feature_layers", None) or backbone.model.config.vision_feature_layer
    )
    used = max(index % (len(layers) + 1) for index in ([selected] if isinstance(selected, int) else selected))
    assert len(set(ran)) == (len(layers) if runs_all else used)


def test_some_families_use_fewer_layers_than_their_tower_has():
    layers = {name: CASES[name][1].get("vision_feature_layer", -2) for name in LAYERED}
    assert -2 in layers.values()


@FAMILIES
@torch.no_grad()
def test_rows_with_videos_equal_themselves_alone(name):
    """Different numbers of videos, frames and words; left padding; a text row; and a question per row."""
    model = make_linvt(name)
    rows = [[5, "v", 6], [3, "v", 4, 5, "v", 8, 9, 7], [11, 12]]
    clips = [[make_frames(3)], [make_frames(2, seed=1), make_frames(5, seed=2)], []]
    questions = torch.tensor([[6, 0, 0], [4, 5, 8], [0, 0, 0]])
    asked = {"question_input_ids": questions, "question_attention_mask": (questions > 0).long()}
    # One product over the patches of all images: float32 rounds otherwise with another number of them.
    tolerance = {"atol": 1e-4 if name == "lfm2_vl" else 2e-5, "rtol": 0}
    batch = {**prompt(model, rows), **videos(name, list(chain(*clips))), **asked}
    together, _ = step_logits(model, batch)
    forward = model(**batch).logits
    for number, (row, clip) in enumerate(zip(rows, clips, strict=True)):
        own = {key: value[number : number + 1] for key, value in asked.items()} if clip else {}
        single = {**prompt(model, [row]), **(videos(name, clip) if clip else {}), **own}
        alone, _ = step_logits(model, single)
        torch.testing.assert_close(together[number], alone[0], **tolerance)
        length = single["input_ids"].shape[1]
        torch.testing.assert_close(forward[number, -length:], model(**single).logits[0], **tolerance)
    swapped = {**batch, **videos(name, [make_frames(3, seed=7), *clips[1]])}
    moved, _ = step_logits(model, swapped)
    assert (moved[0, 0] - together[0, 0]).abs().max() > 1e-2, "the videos must count"


@FAMILIES
@pytest.mark.parametrize("cache", ["none", "static"])
@torch.no_grad()
def test_caches_change_nothing(name, cache):
    model = make_linvt(name)
    base = model.model.backbone
    media, lengths = image_media(name, base, make_frames(2, seed=3))
    images = [("i", lengths[0]), 4, ("i", lengths[1])]
    batch = {**prompt(model, [[5, "v", 6, 9], [3, *images, 4, 5, "v", 8]]), **media}
    batch |= videos(name, [make_frames(3), make_frames(2, seed=1)])
    cached, tokens = step_logits(model, batch)
    if cache == "static":
        found, sequences = step_logits(model, batch, cache_implementation="static", disable_compile=True)
        torch.testing.assert_close(found, cached, atol=2e-5, rtol=0)
        assert torch.equal(sequences, tokens)
        return
    # One forward over the whole, generated tokens and all.
    added = tokens.shape[1] - batch["input_ids"].shape[1]
    whole = model(**extend(model, batch, tokens[:, -added:])).logits[:, -added - 1 : -1]
    torch.testing.assert_close(cached, whole, atol=2e-5, rtol=0)


@FAMILIES
@torch.no_grad()
def test_beams_and_copies_equal_duplication_by_hand(name):
    model = make_linvt(name)
    rows, clips = [[5, "v", 6, "v", 9], [3, "v", 8]], [make_frames(3), make_frames(2, seed=1), make_frames(4, seed=2)]
    batch = {**prompt(model, rows), **videos(name, clips)}
    first, _ = step_logits(model, batch, num_beams=3)
    twice = {**prompt(model, [rows[0]] * 3 + [rows[1]] * 3), **videos(name, clips[:2] * 3 + clips[2:] * 3)}
    expected = model(**twice).logits[:, -1]
    torch.testing.assert_close(first[:, 0], expected, atol=2e-5, rtol=0)
    together = model.generate(**batch, num_beams=3, max_new_tokens=4, do_sample=False)
    for number, (row, own) in enumerate(zip(rows, (clips[:2], clips[2:]), strict=True)):
        alone = model.generate(
            **prompt(model, [row]), **videos(name, own), num_beams=3, max_new_tokens=4, do_sample=False
        )
        assert torch.equal(together[number, -4:], alone[0, -4:])


def test_tiles_are_refused():
    name = "internvl"
    model, frames = make_linvt(name).model, make_frames(2)
    wide = [frame[:28] for frame in frames]
    processor = make_processor(name)
    tiled = processor(wide, return_tensors="pt", crop_to_patches=True)
    with pytest.raises(ValueError, match=r"InternVLModel.get_image_features gave 6 results for 2 frames: switch tiles"):
        Backbone(model.backbone).encode_frames(dict(tiled), [2])


def test_frames_in_one_prompt_are_refused():
    model = make_linvt("idefics3").model
    flat = make_processor("idefics3")(make_frames(3), return_tensors="pt", do_image_splitting=False)
    with pytest.raises(ValueError, match=r"Idefics3Model.get_image_features gave"):
        Backbone(model.backbone).encode_frames(dict(flat), [3])


def test_frames_of_different_size_are_refused():
    model = make_linvt("qwen2_vl").model
    frames = [make_frames(1)[0], make_frames(1)[0][:28]]
    media = frame_inputs(make_processor("qwen2_vl"), "qwen2_vl", [frames])
    reason = (
        r"Qwen2VLModel.get_image_features gave \[2, 4\] tokens for frames of video 0.*LinVT has no row for 'qwen2_vl'"
    )
    with pytest.raises(ValueError, match=reason):
        Backbone(model.backbone).encode_frames({k.removesuffix("_videos"): v for k, v in media.items()}, [2])


def unbuilt(class_name, model_type, **modules):
    """The class of an image-LLM without its layers, some of which are large or need another package."""
    made = getattr(transformers, class_name)
    base = made.__new__(made)
    torch.nn.Module.__init__(base)
    base.config = AutoConfig.for_model(model_type)
    for name, module in modules.items():
        setattr(base, name, module)
    return base


@pytest.mark.parametrize(
    ("class_name", "model_type", "reason"),
    [
        ("Gemma3nModel", "gemma3n", "every layer of its language model also reads embeddings of the ids"),
        ("Florence2Model", "florence2", "its images go into an encoder"),
        ("Gemma4Model", "gemma4", "its forward takes mm_token_type_ids, and LinVT does not know which"),
        ("LlavaNextModel", "llava_next", "its image processor cuts every frame into tiles"),
        ("LlavaNextVideoModel", "llava_next_video", "its image processor cuts every frame into tiles"),
        ("VideoLlavaModel", "video_llava", "it is a video-LLM"),
    ],
)
def test_families_that_would_be_wrong_are_refused_with_the_reason(class_name, model_type, reason):
    with pytest.raises(ValueError, match=rf"LinVT does not support {class_name} yet: {reason}.*Take another image-LLM"):
        Backbone(unbuilt(class_name, model_type)).check()


def test_every_refused_family_is_tested():
    assert set(REFUSED) == {"gemma3n", "llava_next", "llava_next_video", "video_llava"}
    assert not set(REFUSED) & {model_type for model_type, *_ in CASES.values()}


def test_another_way_to_feed_deeper_layers_is_refused():
    language_model = make_image_llm("llava_clip_llama").model.language_model
    language_model.forward = lambda inputs_embeds, deepstack_features=None: None
    base = unbuilt("LlavaModel", "llava", language_model=language_model)
    with pytest.raises(ValueError, match=r"LlavaModel yet: its tower also feeds deeper layers .* LinVT does not know"):
        Backbone(base).check()


def test_a_model_that_takes_no_embeddings_is_refused():
    base = unbuilt("LlavaModel", "llava")
    base.forward = lambda input_ids, pixel_values=None: None
    with pytest.raises(ValueError, match="LlavaModel yet: its forward takes no inputs_embeds"):
        Backbone(base).check()


@pytest.mark.parametrize("model_type", ["phi4_multimodal", "llama"])
def test_models_without_image_features_are_refused(model_type):
    base = AutoModel.from_config(AutoConfig.for_model(model_type, **TINY)) if model_type == "llama" else None
    base = base or unbuilt("Phi4MultimodalModel", model_type)
    with pytest.raises(ValueError, match=rf"{type(base).__name__} has no get_image_features, so LinVT cannot get"):
        Backbone(base).check()


@pytest.mark.parametrize(
    ("model_type", "name"), [("llama", "LlamaConfig"), ("phi4_multimodal", "Phi4MultimodalConfig")]
)
def test_checkpoints_that_are_no_image_llm_are_refused(model_type, name, tmp_path):
    AutoConfig.for_model(model_type).save_pretrained(tmp_path)
    # The configuration is asked first, so that a file of weights need only be there.
    save_file({"weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=rf"is no image-LLM that .* loads \({name}, .*it has no get_image_features"):
        LinVTForCausalLM.from_image_llm(tmp_path)


def test_a_head_that_linvt_cannot_keep_is_refused(tmp_path):
    vision = {**TINY, "image_size": 28, "patch_size": 14}
    text = {"model_type": "opt", **TINY, "ffn_dim": 16, "max_position_embeddings": 32, "word_embed_proj_dim": 16}
    qformer = {**TINY, "encoder_hidden_size": 16}
    config = AutoConfig.for_model(
        "blip-2", vision_config=vision, qformer_config=qformer, text_config=text, num_query_tokens=4
    )
    AutoModelForImageTextToText.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="Blip2ForConditionalGeneration is not a base model with a linear head"):
        LinVTForCausalLM.from_image_llm(tmp_path)


def test_large_frames_of_cohere_are_not_cut_up():
    frames = [np.zeros((112, 224, 3), np.uint8)] * 2
    processor = make_processor("cohere2_vision")
    assert len(processor(frames, return_tensors="pt")["pixel_values"]) > 2
    assert len(frame_inputs(processor, "cohere2_vision", [frames])["pixel_values_videos"]) == 2


@FAMILIES
def test_every_batch_reaches_every_trained_parameter(name):
    """What no loss can reach is frozen, and no more; batches of text or of images give the rest gradients of 0."""
    model = make_linvt(name).train()
    media, lengths = image_media(name, model.model.backbone, make_frames(2, seed=3))
    images = [("i", lengths[0]), 4, ("i", lengths[1])]
    rows = {"videos": [5, "v", 6], "images": [3, *images, 4], "text": [3, 4, 5], "both": [3, *images, 4, "v", 8]}
    frozen = {key for key, parameter in model.named_parameters() if not parameter.requires_grad}
    for kind, row in rows.items():
        batch = prompt(model, [row])
        batch |= media if kind in ("images", "both") else {}
        batch |= videos(name, [make_frames(3)]) if kind in ("videos", "both") else {}
        for key, parameter in model.named_parameters():
            parameter.requires_grad_(kind == "both" or key not in frozen)
        model.zero_grad()
        model(**batch, labels=batch["input_ids"]).loss.backward()
        left = {key for key, parameter in model.named_parameters() if parameter.grad is None}
        assert left == frozen, kind


def named_families(source: str) -> set[str]:
    """Model types of the tables that a source compares or looks up: its strings that are exactly one of them."""
    tables = (linvt_families.FRAME_CALLS, linvt_families.TYPE_RULES, linvt_families.REFUSED)
    known = set(chain(*tables, linvt_families.ADDED_FEATURES, linvt_families.LAYER_FAMILIES))
    known |= {"paligemma", "ovis2", *linvt_families.SQUARE_IMAGES, *linvt_families.UNUSED_PARTS}
    return known & {node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)}


def test_only_the_backbone_knows_families() -> None:
    """A new family changes the tables and `Backbone`, and no other file of LinVT."""
    files = {path.name: path.read_text() for path in Path(linvt_backbones.__file__).parent.glob("*linvt*.py")}
    knowing = {name: families for name, source in files.items() if (families := named_families(source))}
    # The defaults of configuration and processor name LLaVA.
    defaults = {name: knowing.pop(name) for name in ("configuration_linvt.py", "processing_linvt.py")}
    assert knowing.keys() == {"linvt_families.py", "linvt_backbones.py"}
    assert set(chain(*defaults.values())) == {"llava"}
    assert named_families('if model.config.model_type == "gemma3": pass') == {"gemma3"}, "the search must find one"
