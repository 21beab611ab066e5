"""What every design shares when it runs the test mixins of transformers: tiny sizes, inputs, and a table of skips.

A design's file names its classes and sizes and says why it skips what it skips; see `test_pllava_conformance.py`.
"""

import fnmatch
from typing import Any, ClassVar
from unittest import mock

import pytest
import torch
from conformance_media import url_to_local_path
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import CLIPImageProcessor, PreTrainedTokenizerFast, ProcessorMixin
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, MODEL_MAPPING_NAMES
from transformers.video_utils import VideoMetadata
from upstream_tests.generation.test_utils import GenerationTesterMixin
from upstream_tests.test_configuration_common import ConfigTester
from upstream_tests.test_modeling_common import ModelTesterMixin
from upstream_tests.test_processing_common import MODALITY_INPUT_DATA, ProcessorTesterMixin
from upstream_tests.test_video_processing_common import VideoProcessingTestMixin, prepare_video_inputs

from hf_videollm.models.video_llm_checkpoint import CheckpointMixin

BATCH_SIZE = 7  # the mixins' padding tests want at least this many rows
NUM_FRAMES = 4
IMAGE_SIZE = 16
SIZES = {"size": {"shortest_edge": IMAGE_SIZE}, "crop_size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE}}
# Low ids, because the mixin also tries a smaller vocabulary.
PAD_TOKEN_ID, IMAGE_TOKEN_ID, VIDEO_TOKEN_ID, AUDIO_TOKEN_ID, QUERY_TOKEN_ID, FIRST_TEXT_ID = 0, 3, 4, 5, 6, 7
# Filter-bank frames of a sound, and its vectors: two patches in time, eight in frequency.
SOUND_FRAMES, AUDIO_TOKENS = 32, 16
VISION_CONFIG = {
    "model_type": "clip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 37,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": IMAGE_SIZE,
    "patch_size": 4,
}
TEXT_CONFIG = {
    "model_type": "llama",
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 37,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": PAD_TOKEN_ID,
}

# These load a checkpoint that lacks weights, on purpose. Our from_pretrained refuses that unless it is called with
# `strict=False`, which the mixin cannot pass: run so, they show that `strict=False` is transformers' own behaviour.
LENIENT_TESTS = (
    "test_base_model_prefix_loads_base_weights",
    "test_can_init_all_missing_weights",
    "test_correct_missing_keys",
    "test_model_weights_reload_no_missing_tied_weights",
)
# Tests of the mixins that we replace by one of the same name in our own words, and why.
REPLACED = {
    "test_apply_chat_template_video_frame_sampling": "ours also samples from a list of pictures; the mixin wants an "
    "error there, although a user's folder of frames is a video like any other",
    "test_call_sample_frames": "a clip shorter than num_frames repeats frames; the mixin wants an error there",
}


class SkipTable:
    """Replaces every test named in `skips` by a skip with the reason given there.

    A name may hold wildcards, for the numbered cases of one test. A name that matches nothing is an error, so that the
    table cannot outlive what it talks about.
    """

    skips: ClassVar[dict[str, str]] = {}
    reasons: ClassVar[set[str]] = set()  # of all tables, for the report

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for pattern, reason in vars(cls).get("skips", {}).items():
            SkipTable.reasons.add(reason)
            names = fnmatch.filter(dir(cls), pattern)
            if not names:
                raise AttributeError(f"{cls.__name__}.skips names {pattern}, which is not a test.")
            for name in names:
                setattr(cls, name, _skipping(reason))


def _skipping(reason: str) -> Any:
    def skipped(self: Any) -> None:
        self.skipTest(reason)

    return skipped


class TinyInputs:
    """What the model mixin calls a model tester: a tiny configuration and a batch of one image and one video a row."""

    batch_size = BATCH_SIZE
    num_hidden_layers = TEXT_CONFIG["num_hidden_layers"]
    hidden_size = TEXT_CONFIG["hidden_size"]
    num_attention_heads = TEXT_CONFIG["num_attention_heads"]
    vision_config = VISION_CONFIG
    text_config = TEXT_CONFIG
    is_training = True

    def __init__(self, config_class: Any, options: dict[str, Any], image_tokens: int, video_tokens: int) -> None:
        self.config_class = config_class
        self.options = options
        self.image_tokens = image_tokens
        self.video_tokens = video_tokens
        self.hears = "audio" in config_class.modalities
        # IVA's query tokens.
        self.query_tokens = options.get("num_query_tokens", 0)
        self.seq_length = image_tokens + video_tokens + (AUDIO_TOKENS if self.hears else 0) + self.query_tokens + 6

    def get_config(self) -> Any:
        return self.config_class(
            vision_config=dict(VISION_CONFIG),
            text_config=dict(TEXT_CONFIG),
            image_token_id=IMAGE_TOKEN_ID,
            video_token_id=VIDEO_TOKEN_ID,
            num_frames=NUM_FRAMES,
            **self.options,
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[Any, dict[str, torch.Tensor]]:
        text = torch.randint(FIRST_TEXT_ID, TEXT_CONFIG["vocab_size"], (self.batch_size, self.seq_length))
        text[:, 1 : 1 + self.image_tokens] = IMAGE_TOKEN_ID
        text[:, 2 + self.image_tokens : 2 + self.image_tokens + self.video_tokens] = VIDEO_TOKEN_ID
        if self.query_tokens:
            text[:, -2 - self.query_tokens : -2] = QUERY_TOKEN_ID
        frame = (3, IMAGE_SIZE, IMAGE_SIZE)
        sounds = {}
        if self.hears:
            start = 3 + self.image_tokens + self.video_tokens
            text[:, start : start + AUDIO_TOKENS] = AUDIO_TOKEN_ID
            sounds = {
                "input_features": 15 + 6 * torch.randn(self.batch_size, SOUND_FRAMES, 128),
                "input_features_mask": torch.ones(self.batch_size, SOUND_FRAMES, dtype=torch.long),
            }
        return self.get_config(), {
            **sounds,
            "input_ids": text,
            "attention_mask": torch.ones_like(text),
            "pixel_values": torch.rand(self.batch_size, *frame),
            "pixel_values_videos": torch.rand(self.batch_size, NUM_FRAMES, *frame),
            "num_video_frames": torch.full((self.batch_size,), NUM_FRAMES),
        }


class ModelConformance(SkipTable, ModelTesterMixin, GenerationTesterMixin):
    """A design gives `config_class`, its two model classes, `options` of its config and its placeholder counts."""

    config_class: ClassVar[Any]
    base_model_class: ClassVar[Any]
    generating_model_class: ClassVar[Any]
    options: ClassVar[dict[str, Any]] = {}
    image_tokens: ClassVar[int]
    video_tokens: ClassVar[int]

    _is_composite = True
    additional_model_inputs: ClassVar[list[str]] = ["pixel_values", "pixel_values_videos", "num_video_frames"]
    test_torch_exportable = False
    # Our files have no copyright line, whose year the mixin takes for the age of a model.
    test_can_init_all_missing_weights_before_2023 = True
    # The layers of the tower behind the chosen feature layer get no gradient, by design.
    test_all_params_have_gradient = False
    # Our tower runs on frames, so its first dimension is frames, not videos.
    skip_test_video_features_output_shape = True

    @property
    def all_model_classes(self) -> tuple[Any, Any]:
        return self.base_model_class, self.generating_model_class

    def setUp(self) -> None:
        self.model_tester = TinyInputs(self.config_class, self.options, self.image_tokens, self.video_tokens)
        # The mixin looks up in these tables which class has a head, and hence labels and a loss.
        for table, model_class in (
            (MODEL_MAPPING_NAMES, self.base_model_class),
            (MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, self.generating_model_class),
        ):
            table[self.config_class.model_type] = model_class.__name__
            self.addCleanup(table.pop, self.config_class.model_type)
        if self._testMethodName in LENIENT_TESTS:
            self.enterContext(lenient_loading())

    def test_config(self) -> None:
        # Without the towers' configurations, which are saved longer than they were given.
        options = {name: value for name, value in self.options.items() if not name.endswith("_config")}
        arguments = {"num_frames": NUM_FRAMES, "image_token_id": IMAGE_TOKEN_ID, **options}
        ConfigTester(self, self.config_class, has_text_modality=False, **arguments).run_common_tests()


def lenient_loading() -> Any:
    """Context in which `from_pretrained` of our models has `strict=False` as its default."""
    return mock.patch.object(CheckpointMixin.from_pretrained.__func__, "__kwdefaults__", {"strict": False})


class ProcessorConformance(SkipTable, ProcessorTesterMixin):
    """A design gives `processor_class`, `video_processor_class` and the `options` of its processor."""

    video_processor_class: ClassVar[Any]
    options: ClassVar[dict[str, Any]] = {}
    # Long enough for a prompt with its placeholders, one token a character at most.
    images_text_kwargs_max_length = images_unstructured_max_length = 120
    videos_text_kwargs_max_length = videos_unstructured_max_length = 120
    chat_template_max_length = 200

    @classmethod
    def prepare_processor_dict(cls) -> dict[str, Any]:
        return dict(cls.options)

    @classmethod
    def _setup_tokenizer(cls) -> PreTrainedTokenizerFast:
        return tiny_tokenizer()

    @classmethod
    def _setup_image_processor(cls) -> CLIPImageProcessor:
        return CLIPImageProcessor(**SIZES)

    @classmethod
    def _setup_video_processor(cls) -> Any:
        return cls.video_processor_class(num_frames=NUM_FRAMES, **SIZES)

    @staticmethod
    def does_processor_return_mm_offsets(processor_class: Any, method_name: str) -> bool:
        # The mixin compares with the parent class, which is our shared base; without this it would skip.
        return getattr(processor_class, method_name) is not getattr(ProcessorMixin, method_name)

    @property
    def video_sampling_expectations(self) -> list[dict[str, Any]]:
        """The mixin's clip has 11 frames at 30 a second; ours also samples when nothing is asked for."""
        return [
            {"num_frames": 3, "fps": None, "expected_dim": 1, "output_length": 3},
            {"num_frames": None, "fps": 10, "expected_dim": 1, "output_length": 4},
            {"do_sample_frames": False, "fps": 10, "expected_dim": 1, "output_length": 11},
            {"do_sample_frames": False, "expected_dim": 1, "output_length": 11},
            {"expected_dim": 1, "output_length": NUM_FRAMES},
        ]

    def setUp(self) -> None:
        # A class that saves its code for remote loading gains an `auto_map` on its first save, and differs from its
        # reloaded self by that alone; that code travels is tested elsewhere.
        for name in ("processor_class", "video_processor_class"):
            self.enterContext(mock.patch.object(getattr(self, name), "_auto_class", None))

    def test_apply_chat_template_video_frame_sampling(self) -> None:
        clip, picture = (
            url_to_local_path(f"https://example.com/{name}") for name in ("tiny_video_320x240.mp4", "a.png")
        )
        for expectation in self.video_sampling_expectations:
            length, axis = expectation.pop("output_length"), expectation.pop("expected_dim")
            assert self.pixels_of_chat(clip, **expectation).shape[axis] == length
        assert self.pixels_of_chat([picture] * 6, do_sample_frames=False).shape[1] == 6
        assert self.pixels_of_chat([picture] * 6, do_sample_frames=True).shape[1] == NUM_FRAMES

    def test_apply_chat_template_with_videos(self) -> None:
        # The mixin's own check, which it makes only where torchcodec is installed. Our decoder needs no such thing.
        for videos in (
            MODALITY_INPUT_DATA["videos"][:1],
            MODALITY_INPUT_DATA["videos"],
            [self.prepare_videos_inputs()],
        ):
            with self.subTest(kind=type(videos[0]).__name__, batch_size=len(videos)):
                self._test_apply_chat_template(
                    "video", len(videos), "pt", "videos_input_name", "video_processor", videos
                )

    def pixels_of_chat(self, video: str | list[str], **processor_kwargs: Any) -> torch.Tensor:
        content = [{"type": "video", "url": video}, {"type": "text", "text": "What is shown?"}]
        batch = self.get_processor().apply_chat_template(
            [[{"role": "user", "content": content}]],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs=processor_kwargs,
        )
        return batch[self.videos_input_name]


class VideoProcessorConformance(SkipTable, VideoProcessingTestMixin):
    """A design gives `fast_video_processing_class`, as the mixin calls it."""

    def setUp(self) -> None:
        super().setUp()
        self.video_processor_tester = TinyVideos()

    @property
    def video_processor_dict(self) -> dict[str, Any]:
        return self.video_processor_tester.prepare_video_processor_dict()

    def test_call_sample_frames(self) -> None:
        processor = self.fast_video_processing_class(**self.video_processor_dict)
        self.video_processor_tester.num_frames = 8
        videos = self.video_processor_tester.prepare_video_inputs(return_tensors="torch")
        known = [{"duration": 2.0, "total_num_frames": 8, "fps": 4}]
        for batch in (videos[0], videos):
            num_videos = len(videos) if batch is videos else 1

            def num_frames(batch: Any = batch, **kwargs: Any) -> int:
                return processor(batch, return_tensors="pt", **kwargs)[self.input_name].shape[1]

            assert num_frames(do_sample_frames=False, num_frames=3) == 8
            assert num_frames(num_frames=3) == 3
            assert num_frames(num_frames=10) == 10
            for metadata in ([known] * num_videos, [VideoMetadata(**known[0])] * num_videos):
                assert num_frames(fps=3, video_metadata=metadata) == 6
            with pytest.raises(ValueError, match="frame rate"):
                num_frames(fps=3)


class TinyVideos:
    """What the video mixin calls a tester: options of the processor, random videos, and the shape they come out in."""

    batch_size = 3
    num_frames = NUM_FRAMES
    num_channels = 3

    def prepare_video_processor_dict(self) -> dict[str, Any]:
        return {
            "size": {"shortest_edge": 20},
            "crop_size": {"height": 18, "width": 18},
            "num_frames": NUM_FRAMES,
            "do_resize": True,
            "do_center_crop": True,
            "do_normalize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
        }

    def prepare_video_inputs(self, equal_resolution: bool = False, return_tensors: str = "pil") -> list[Any]:
        return prepare_video_inputs(
            batch_size=self.batch_size,
            num_frames=self.num_frames,
            num_channels=self.num_channels,
            min_resolution=24,
            max_resolution=64,
            equal_resolution=equal_resolution,
            return_tensors=return_tensors,
        )

    def expected_output_video_shape(self, videos: list[Any]) -> tuple[int, ...]:
        return NUM_FRAMES, self.num_channels, 18, 18


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token per printable character, besides the special tokens."""
    special = ["<pad>", "<s>", "</s>", "<image>", "<video>", "<audio>", "<unk>"]
    characters = ["\n", *map(chr, range(32, 127))]
    tokenizer = Tokenizer(models.WordLevel({t: i for i, t in enumerate([*special, *characters])}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>", "video_token": "<video>", "audio_token": "<audio>"},
    )
