"""Whatever is given to a design, in whichever way, changes the result as it says or is refused by its name."""

from typing import Any

import pytest
import torch
from tiny_linvt import make_llava_processor
from ways_in import (
    BUNDLED,
    OF_A_CALL,
    OF_A_VIDEO,
    TENSORS,
    ask,
    chat_inputs,
    is_same,
    outcome,
    pipeline_of,
    processor_of,
)

from hf_videollm import BeatsFeatureExtractor, MediaWarning, load_pipeline, load_video
from hf_videollm.models.video_llm_chat_variables import template_of, template_variables

# Names that people write, and what is nearest to them.
MISTYPED = {
    "num_frame": "num_frames",
    "n_frames": "num_frames",
    "fpss": "fps",
    "strat": "start",
    "end_": "end",
    "video_backnd": "video_backend",
    "allowed_host": "allowed_hosts",
    "on_decode_eror": "on_decode_error",
    "do_sample_frame": "do_sample_frames",
    "max_frame": "max_frames",
    "timeouts": "timeout",
}
# Names of other libraries, which mean nothing here.
FOREIGN = ["min_frames", "max_pixels", "resized_height", "sample_fps", "use_cache_of_frames"]
# Options whose effect shows, each with a value that is not the checkpoint's.
REAL: dict[str, Any] = {
    "num_frames": 5,
    "fps": 2.0,
    "start": 1.0,
    "end": 0.9,
    "max_frames": 2,
    "do_rescale": False,
    "do_normalize": False,
    "image_mean": [0.1, 0.2, 0.3],
    "do_pad": False,
    "data_format": "channels_last",
    "size": {"height": 32, "width": 32},
}
CLIP_OPTIONS: list[dict[str, Any]] = [
    {"start": 1.0},
    {"end": 0.9},
    {"start": 0.5, "end": 1.2},
    {"num_frames": 5},
    {"fps": 2.0},
    {"start": 0.5, "fps": 2.0},
]
QWEN = {"start": "video_start", "end": "video_end", "num_frames": "nframes"}
designs = pytest.mark.parametrize("design", BUNDLED)
calls = pytest.mark.parametrize("way", OF_A_CALL)
messages = pytest.mark.parametrize("way", OF_A_VIDEO)


@designs
@calls
def test_unknown_options_of_a_call_are_refused(design: str, way: str, clips: list[str]) -> None:
    for name, nearest in MISTYPED.items():
        found = outcome(OF_A_CALL[way], design, clips[0], {name: 3})
        assert f"'{name}'" in found, (name, found)
        assert nearest in found.split("did you mean")[-1], (name, found)
    for name in FOREIGN:
        assert f"'{name}'" in outcome(OF_A_CALL[way], design, clips[0], {name: 3}), name


@designs
@calls
def test_known_options_of_a_call_count_or_are_refused(design: str, way: str, clips: list[str]) -> None:
    for name, value in REAL.items():
        if (design, name) == ("linvt", "do_pad"):
            continue  # goes to the image processor of the image-LLM, some of which pad
        if (design, way) == ("linvt", "video_processor") and name in ("do_rescale", "do_normalize"):
            continue  # leaves pixels as they are anyway
        found = outcome(OF_A_CALL[way], design, clips[0], {name: value})
        # A budget is named by what goes beyond it; sizes that do not fit together by what they are.
        assert found == "changed" or name in found, (name, found)


@designs
def test_words_of_a_chat_template_take_no_option_away(design: str, clips: list[str], caplog: Any) -> None:
    """The names of options may stand in a template as arguments, as text, even as variables."""
    processor, video = processor_of(design), {"type": "video", "path": clips[0]}
    names = sorted(processor.known_options())
    token = processor.image_token if design == "linvt" else processor.video_token
    own = f"{{% generation %}}{{% endgeneration %}}{token}<|end|>{{{{ mood }}}}"
    own += "<iva_query>" if design == "iva" else ""
    template = f"{{% set seen = namespace({', '.join(f'{name}=0' for name in names)}) %}}{{{{ seen.start }}}}{own}"
    questions = {"processor_kwargs": {"questions": [None]}} if design == "linvt" else {}
    seen = []
    for text in (template, own + "{% if end is defined %}{{ num_frames }}{% endif %}"):
        plain = processor.apply_chat_template(ask(video), chat_template=text, **TENSORS, **questions)
        for options in CLIP_OPTIONS[2:5]:
            given = {**questions.get("processor_kwargs", {}), **options}
            inside = processor.apply_chat_template(ask(video), chat_template=text, processor_kwargs=given, **TENSORS)
            beside = processor.apply_chat_template(ask(video), chat_template=text, **TENSORS, **questions, **options)
            assert is_same(beside, inside), options
            assert not is_same(beside, plain), options
        # Control: what the template does ask for reaches it.
        seen.append(processor.apply_chat_template(ask(video), chat_template=text, mood="glad"))
        with pytest.raises(TypeError, match=r"'moood': did you mean mood"):
            processor.apply_chat_template(ask(video), chat_template=text, moood="glad")
    assert all("glad" in text for text in seen)
    assert "have to be in `processor_kwargs`" not in caplog.text


def test_the_variables_of_a_template_are_those_it_does_not_set() -> None:
    template = "{% set a = 1 %}{% for b in messages %}{{ a + b + c }}{% break %}{% endfor %}{{ raise_exception('d') }}"
    assert template_variables(template + "{% if not e is defined %}{% set e = 2 %}{% endif %}{{ e }} f") == {"c", "e"}
    assert template_variables("{{ broken") == set()
    assert template_of("tools", {"default": "a", "tools": "b"}) == "b"
    assert template_of(None, {"default": "a", "tools": "b"}) == "a"
    assert template_of("{{ c }}", "a") == "{{ c }}"
    assert template_of(None, None) == ""


@designs
def test_options_common_to_all_parts_are_those_that_all_know(design: str, clips: list[str]) -> None:
    way = OF_A_CALL["processor"]
    for name, group in (("num_frames", "videos_kwargs"), ("padding", "text_kwargs"), ("do_resize", "images_kwargs")):
        found = outcome(way, design, clips[0], {"common_kwargs": {name: 2}})
        assert all(word in found for word in (name, "common_kwargs", group)), found
    assert "'num_frame'" in outcome(way, design, clips[0], {"common_kwargs": {"num_frame": 2}})
    assert outcome(way, design, clips[0], {"common_kwargs": {"return_tensors": "pt"}}) == "ignored"


@designs
def test_the_checks_of_calls_can_fail(design: str, clips: list[str]) -> None:
    """An option that asks for what happens anyway is seen to change nothing; transformers passes over unknown ones."""
    number = processor_of(design).video_processor.num_frames
    same: dict[str, Any] = {"fps": 1.0} if number is None else {"num_frames": number}
    assert outcome(OF_A_CALL["processor"], design, clips[0], same) == "ignored"
    inner = make_llava_processor()
    assert is_same(inner(text="a", num_frame=3, return_tensors="pt"), inner(text="a", return_tensors="pt"))


@designs
@messages
def test_options_of_a_video_mean_what_they_mean_in_a_call(design: str, way: str, clips: list[str]) -> None:
    for options in CLIP_OPTIONS:
        found = OF_A_VIDEO[way](design, clips[0], options)
        of_a_call = {"video_options": "processor", "message": "processor_kwargs"}.get(way, way.split()[-1])
        assert is_same(found, OF_A_CALL[of_a_call](design, clips[0], options)), options
        assert not is_same(found, OF_A_VIDEO[way](design, clips[0], {})), options


@designs
def test_options_under_the_names_of_qwen(design: str, clips: list[str]) -> None:
    for options in CLIP_OPTIONS:
        renamed = {QWEN.get(name, name): value for name, value in options.items()}
        video = {"type": "video", "path": clips[0]}
        assert is_same(chat_inputs(design, {**video, **renamed}), chat_inputs(design, {**video, **options})), renamed
    with pytest.raises(ValueError, match="start twice"):
        chat_inputs(design, {**video, "start": 1.0, "video_start": 1.0})


@designs
@messages
def test_unknown_options_of_a_video_are_refused(design: str, way: str, clips: list[str]) -> None:
    for name in [*MISTYPED, *FOREIGN, "allowed_hosts", "size", "do_resize", "video_metadata"]:
        found = outcome(OF_A_VIDEO[way], design, clips[0], {name: 3})
        assert "Error" in found, (name, found)
        assert name in found, (name, found)


@designs
def test_each_video_of_a_prompt_has_its_own_options(design: str, clips: list[str]) -> None:
    first = {"type": "video", "path": clips[0], "start": 1.0}
    second = {"type": "video", "path": clips[1], "num_frames": 8, "end": 0.9}
    plain = {"type": "video", "path": clips[2]}
    together = chat_inputs(design, first, second, plain)
    name = "pixel_values_videos"
    starts = [0, *together["num_video_frames"].tolist()]
    for index, block in enumerate((first, second, plain)):
        alone = chat_inputs(design, block)
        assert together["num_video_frames"][index] == alone["num_video_frames"][0]
        if design == "linvt":  # all frames in one row
            begin = sum(starts[: index + 1])
            assert torch.equal(together[name][begin : begin + starts[index + 1]], alone[name])
        else:
            count = int(alone["num_video_frames"][0])
            assert torch.equal(together[name][index, :count], alone[name][0, :count])
    batch = processor_of(design).apply_chat_template(
        [
            ask(first, question={"type": "text", "text": "A?"}),
            ask(),
        ],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True},
    )
    assert torch.equal(batch[name], chat_inputs(design, first)[name])


@designs
def test_options_of_a_video_go_before_those_of_the_call(design: str, clips: list[str]) -> None:
    video = {"type": "video", "path": clips[0]}
    expected = chat_inputs(design, video, fps=2.0)
    assert is_same(chat_inputs(design, {**video, "fps": 2.0}, num_frames=3), expected)
    # A message may come from anyone: it cannot raise what the call allows.
    with pytest.raises(ValueError, match=r"limit is 2|above max_frames|more than 2"):
        chat_inputs(design, {**video, "max_frames": 100, "num_frames": 50}, max_frames=2)
    with pytest.raises(ValueError, match="exclude each other"):
        chat_inputs(design, {**video, "fps": 2.0, "num_frames": 3})
    with pytest.raises(ValueError, match="do_sample_frames"):
        chat_inputs(design, {**video, "start": 1.0}, do_sample_frames=False)
    with pytest.raises(ValueError, match="do_sample_frames"):
        chat_inputs(design, video, start=1.0, do_sample_frames=False)
    with pytest.raises(TypeError, match="video_options"):
        chat_inputs(design, {**video, "start": 1.0}, video_options=[{}])
    for wrong in ({"start": 2.0, "end": 1.0}, {"start": "soon"}, {"num_frames": 0}, {"fps": -1.0}):
        with pytest.raises((TypeError, ValueError), match=next(iter(wrong))):
            chat_inputs(design, {**video, **wrong})


@designs
def test_options_of_a_wrong_type_are_one_line(design: str, clips: list[str]) -> None:
    for way in OF_A_CALL.values():
        for name, value in {"num_frames": "three", "fps": "fast", "start": [1]}.items():
            found = outcome(way, design, clips[0], {name: value})
            assert "Error" in found, found
            assert name in found, found
            assert "\n" not in found, found


@designs
def test_unknown_options_of_generation_are_refused_by_name(design: str, clips: list[str]) -> None:
    pipe = pipeline_of(design)
    for name in ("num_beam", "max_new_token", "do_sampel", "temprature"):
        with pytest.raises(TypeError, match=f"{name}.*did you mean"):
            pipe(clips[0], text="What?", **{name: 2})
        with pytest.raises((TypeError, ValueError), match=name):
            pipe(clips[0], text="What?", generate_kwargs={name: 2, "max_new_tokens": 1})
    inputs = chat_inputs(design, {"type": "video", "path": clips[0]})
    with pytest.raises(ValueError, match="num_beam"):
        pipe.model.generate(**inputs, num_beam=2, max_new_tokens=1)
    with pytest.raises(TypeError, match="num_beams was passed twice"):
        pipe(clips[0], text="What?", num_beams=2, generate_kwargs={"num_beams": 2})


def test_unknown_options_of_functions_are_refused_by_name(clips: list[str]) -> None:
    with pytest.raises(TypeError, match=r"num_frame.*num_frames"):
        load_video(clips[0], num_frame=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"devise.*did you mean device"):
        load_pipeline("pllava-tiny", devise="cpu")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"pad_with_silnce.*did you mean pad_with_silence"):
        BeatsFeatureExtractor()([0.0] * 16000, pad_with_silnce=False)


@designs
def test_options_of_sound_are_refused_where_nobody_hears(design: str, clips: list[str]) -> None:
    if design == "videollama2_av":
        pytest.skip("it hears")
    for name in ("sampling_rate", "use_audio_in_video", "missing_audio", "audio_kwargs"):
        assert name in outcome(OF_A_CALL["processor"], design, clips[0], {name: None}), name
    video, sound = {"type": "video", "path": clips[0]}, {"type": "audio", "path": clips[0]}
    with pytest.raises(ValueError, match="cannot hear"):
        chat_inputs(design, video, sound)
    # Processors of transformers take every modality.
    with pytest.warns(MediaWarning, match="cannot hear"):
        processor_of(design)(text="Hi", audio=[0.0])
    with pytest.raises(ValueError, match="cannot hear"):
        processor_of(design).apply_chat_template(
            [{"role": "user", "content": [video]}], tokenize=True, load_audio_from_video=True
        )


def test_options_of_a_video_cut_its_sound_too(clips: list[str]) -> None:
    video = {"type": "video", "path": clips[0]}
    for options in ({"start": 1.0}, {"end": 0.9}, {"start": 0.5, "end": 1.2}):
        found = chat_inputs("videollama2_av", {**video, **options}, pad_with_silence=False)
        assert is_same(found, chat_inputs("videollama2_av", video, pad_with_silence=False, **options))
        assert not torch.equal(
            found["input_features_mask"],
            chat_inputs("videollama2_av", video, pad_with_silence=False)["input_features_mask"],
        )


def test_each_sound_of_its_own_has_its_own_part(clips: list[str]) -> None:
    sound = {"type": "audio", "path": clips[0]}
    whole, part = (
        chat_inputs("videollama2_av", {**sound, **cut}, pad_with_silence=False) for cut in ({}, {"end": 1.0})
    )
    both = chat_inputs("videollama2_av", {**sound, "end": 1.0}, sound, pad_with_silence=False)
    counts = both["input_features_mask"].sum(-1).tolist()
    assert counts == [int(part["input_features_mask"].sum()), int(whole["input_features_mask"].sum())]
    assert counts[0] < counts[1]
    assert is_same(part, chat_inputs("videollama2_av", sound, pad_with_silence=False, end=1.0))
    assert is_same(
        chat_inputs("videollama2_av", {**sound, "start": 0.5}, pad_with_silence=False, start=1.0, end=2.0),
        chat_inputs("videollama2_av", sound, pad_with_silence=False, start=0.5, end=2.0),
    )
    with pytest.raises(ValueError, match=r"no option 'num_frames'|num_frames applies to a whole call"):
        chat_inputs("videollama2_av", {**sound, "num_frames": 3})
