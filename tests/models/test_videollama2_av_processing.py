"""What the processor of VideoLLaMA2-AV makes of videos with sound, without sound, and sounds of their own."""

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from media_corpus import sine, write_sound, write_video
from PIL import Image
from tiny_av_checkpoint import VIDEO_TOKENS, make_av_config, make_av_processor

from hf_videollm import MediaTooLarge, NoAudioStream, NoVideoStream, VideoLlama2AVConfig, VideoLlama2AVProcessor
from hf_videollm.models.media_audio_inputs import in_16_bits
from hf_videollm.models.media_audio_windows import take_clips
from hf_videollm.models.media_video import load_audio

SECONDS = 2.0
RATE = 16000


@pytest.fixture(scope="module")
def processor() -> VideoLlama2AVProcessor:
    return make_av_processor()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sound")


@pytest.fixture(scope="module")
def video(folder: Path) -> str:
    """Two seconds with a tone of 1 kHz."""
    return str(write_video(folder / "tone.mp4", 50, sound=sine(SECONDS, 1000)))


@pytest.fixture(scope="module")
def silent(folder: Path) -> str:
    """Two seconds without a sound track."""
    return str(write_video(folder / "silent.mp4", 50))


@pytest.fixture(scope="module")
def sound(folder: Path) -> str:
    """A second of another tone, sound alone."""
    return str(write_sound(folder / "low.wav", sine(1.0, 300, rate=RATE), rate=RATE, codec="pcm_s16le"))


def track_of(path: str, **cut: float) -> np.ndarray:
    """Sound of a video as it is heard."""
    return in_16_bits(load_audio(path, **cut))


def tokens_of(seconds: float) -> int:
    frames = 1 + (round(seconds * RATE) - 400) // 160
    return frames // 16 * 8


def counts(processor: VideoLlama2AVProcessor, batch: Any) -> list[dict[str, int]]:
    names = ("image", "video", "audio")
    return [
        {name: row.count(getattr(processor, f"{name}_token_id")) for name in names}
        for row in torch.as_tensor(batch["input_ids"]).tolist()
    ]


def ask(processor: VideoLlama2AVProcessor, **inputs: Any) -> Any:
    return processor(**{"text": "<video>\nWhat?", "return_tensors": "pt", **inputs})


def test_sound_of_a_video_follows_its_frames(processor: VideoLlama2AVProcessor, video: str) -> None:
    batch = ask(processor, videos=video, return_mm_token_type_ids=True)
    # AAC may add a few milliseconds, never a patch.
    num_audio = tokens_of(SECONDS)
    assert counts(processor, batch) == [{"image": 0, "video": VIDEO_TOKENS, "audio": num_audio}]
    types = batch["mm_token_type_ids"][0]
    places = types.nonzero().flatten()
    assert types[places].tolist() == [2] * VIDEO_TOKENS + [3] * num_audio
    assert (places.diff() == 1).all()  # nothing between
    assert batch["input_features_mask"].sum() // 16 * 8 == num_audio
    assert make_av_config().num_audio_tokens(int(batch["input_features_mask"].sum())) == num_audio


def test_audio_first(video: str) -> None:
    types = ask(make_av_processor(audio_first=True), videos=video, return_mm_token_type_ids=True)["mm_token_type_ids"][
        0
    ]
    assert types[types > 0].tolist() == [3] * tokens_of(SECONDS) + [2] * VIDEO_TOKENS


def test_features_are_those_of_the_sound(processor: VideoLlama2AVProcessor, video: str) -> None:
    expected = processor.feature_extractor(track_of(video), return_tensors="pt")
    batch = ask(processor, videos=video)
    torch.testing.assert_close(batch["input_features"], expected["input_features"])


def test_as_the_original_listens(video: str) -> None:
    """Eight clips, padded with silence to 30 s: 1496 tokens, whatever the sound."""
    processor = make_av_processor(pad_with_silence=True, audio_sampling="clips")
    batch = ask(processor, videos=video)
    assert counts(processor, batch)[0]["audio"] == 1496
    for divisor in (8, 7):
        expected = processor.feature_extractor(take_clips(track_of(video), divisor=divisor), return_tensors="pt")
        batch = ask(processor, videos=video, audio_clip_divisor=divisor)
        torch.testing.assert_close(batch["input_features"], expected["input_features"])


def test_clips_repeat_a_sound_shorter_than_a_clip(folder: Path) -> None:
    short = write_video(folder / "short.mp4", 25, sound=sine(1.0, 500))
    processor = make_av_processor(audio_sampling="clips")
    length = len(load_audio(str(short)))
    assert counts(processor, ask(processor, videos=str(short)))[0]["audio"] == tokens_of(8 * length / RATE)


def test_start_and_end_cut_the_sound_too(processor: VideoLlama2AVProcessor, video: str) -> None:
    batch = ask(processor, videos=video, start=0.5, end=1.5)
    expected = processor.feature_extractor(track_of(video, start=0.5, end=1.5), return_tensors="pt")
    torch.testing.assert_close(batch["input_features"], expected["input_features"])


def test_a_long_sound_is_cut_to_a_window_that_does_not_change(folder: Path) -> None:
    """The original draws a random one; here "random" must be asked for."""
    long = np.concatenate([sine(31.0, 300, rate=RATE), sine(5.0, 2000, rate=RATE)], axis=1)
    path = str(write_sound(folder / "long.wav", long, rate=RATE, codec="pcm_s16le"))
    processor = make_av_processor()
    first, second = (processor(text="<audio>", audio=path, return_tensors="pt") for _ in range(2))
    assert torch.equal(first["input_features"], second["input_features"])
    assert first["input_features"].shape[1] == 2998
    centre = processor(text="<audio>", audio=path, audio_window="center", return_tensors="pt")["input_features"]
    assert not torch.equal(first["input_features"], centre)
    drawn = [
        processor(text="<audio>", audio=path, audio_window="random", seed=seed, return_tensors="pt")["input_features"]
        for seed in (1, 1, 2)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


class TestVideoWithoutSound:
    def test_silence_is_heard_by_default(self, processor: VideoLlama2AVProcessor, silent: str) -> None:
        batch = ask(processor, videos=silent)
        assert counts(processor, batch)[0]["audio"] == tokens_of(SECONDS)
        assert batch["input_features"].unique().tolist() == [-15.9375]

    def test_skip(self, processor: VideoLlama2AVProcessor, silent: str) -> None:
        batch = ask(processor, videos=silent, missing_audio="skip")
        assert counts(processor, batch) == [{"image": 0, "video": VIDEO_TOKENS, "audio": 0}]
        assert "input_features" not in batch

    def test_error(self, processor: VideoLlama2AVProcessor, silent: str) -> None:
        with pytest.raises(NoAudioStream, match=r"silent\.mp4: .*missing_audio"):
            ask(processor, videos=silent, missing_audio="error")

    def test_sound_that_ends_before_the_clip_begins(self, processor: VideoLlama2AVProcessor, folder: Path) -> None:
        path = str(write_video(folder / "early.mp4", 50, sound=sine(0.5, 500)))
        batch = ask(processor, videos=path, start=1.0)
        assert counts(processor, batch)[0]["audio"] == tokens_of(1.0)
        with pytest.raises(NoAudioStream, match=r"early\.mp4: there is no sound after start=1"):
            ask(processor, videos=path, start=1.0, missing_audio="error")

    def test_frames_have_no_sound(self, processor: VideoLlama2AVProcessor) -> None:
        frames = np.zeros((4, 32, 32, 3), np.uint8)
        assert counts(processor, ask(processor, videos=frames))[0]["audio"] == tokens_of(1.0)
        with pytest.raises(NoAudioStream, match="pictures carry no sound"):
            ask(processor, videos=frames, missing_audio="error")

    def test_not_listening_asks_for_no_sound(self, processor: VideoLlama2AVProcessor, silent: str) -> None:
        batch = ask(processor, videos=silent, use_audio_in_video=False, missing_audio="error")
        assert "input_features" not in batch

    def test_unknown_policy(self, processor: VideoLlama2AVProcessor, silent: str) -> None:
        with pytest.raises(ValueError, match="missing_audio='quiet': choose one of silence, skip, error"):
            ask(processor, videos=silent, missing_audio="quiet")


def test_file_without_any_stream(processor: VideoLlama2AVProcessor, folder: Path) -> None:
    path = folder / "nothing.mp4"
    path.write_bytes(b"not a container at all" * 100)
    with pytest.raises(Exception, match=r"nothing\.mp4") as caught:
        ask(processor, videos=str(path))
    assert "\n" not in str(caught.value)


def test_sound_file_as_a_video(processor: VideoLlama2AVProcessor, sound: str) -> None:
    with pytest.raises(NoVideoStream, match=r"low\.wav"):
        ask(processor, videos=sound)


def test_limit_of_sound(processor: VideoLlama2AVProcessor, video: str) -> None:
    with pytest.raises(MediaTooLarge, match=r"tone\.mp4: the sound is longer than the limit of 1 s"):
        ask(processor, videos=video, max_audio_seconds=1)


class TestSoundsOfTheirOwn:
    def test_every_form_of_a_sound(self, processor: VideoLlama2AVProcessor, sound: str) -> None:
        wave = load_audio(sound)
        forms = [
            sound,
            Path(sound),
            Path(sound).read_bytes(),
            io.BytesIO(Path(sound).read_bytes()),
            wave,
            wave.tolist(),
            torch.from_numpy(wave),
            np.stack([wave, wave]),
            {"array": wave, "sampling_rate": RATE},
            {"bytes": Path(sound).read_bytes(), "path": None},
            {"path": sound, "bytes": None},
            [sound],
        ]
        expected = processor.feature_extractor(wave, return_tensors="pt")["input_features"]
        for form in forms:
            batch = processor(text="<audio>\nWhat?", audio=form, return_tensors="pt")
            torch.testing.assert_close(batch["input_features"], expected)
            assert counts(processor, batch) == [{"image": 0, "video": 0, "audio": tokens_of(1.0)}]

    def test_a_rate_beside_a_file_is_refused(self, processor: VideoLlama2AVProcessor, sound: str) -> None:
        """In a block as in `audio_options`: the file tells its own. That of a call is for its bare samples."""

        def chat(source: Any, **own: Any) -> Any:
            content = [{"type": "audio", "audio": source, **own}, {"type": "text", "text": "What?"}]
            return processor.apply_chat_template(
                [{"role": "user", "content": content}], tokenize=True, return_dict=True, return_tensors="pt"
            )

        def call(source: Any, **own: Any) -> Any:
            return processor(text="<audio>", audio=[source], audio_options=[own], return_tensors="pt")

        wave = load_audio(sound)
        for ask_for in (chat, call):
            for source in (sound, Path(sound).read_bytes(), {"array": wave, "sampling_rate": RATE}):
                with pytest.raises(ValueError, match="sampling_rate is that of bare samples"):
                    ask_for(source, sampling_rate=8000)
                ask_for(source, end=0.5)
            assert len(ask_for(wave, sampling_rate=8000)["input_features"]) == 1
        assert len(processor(text="<audio>", audio=sound, sampling_rate=8000)["input_features"]) == 1

    @pytest.mark.parametrize("rate", [8000, 44100, 48000])
    @pytest.mark.parametrize("channels", [1, 2])
    def test_rates_and_channels(
        self, processor: VideoLlama2AVProcessor, folder: Path, rate: int, channels: int
    ) -> None:
        wave = sine(1.0, 440, rate=rate, channels=channels)
        path = write_sound(folder / f"{rate}-{channels}.wav", wave, rate=rate, codec="pcm_s16le")
        heard = [
            processor(text="<audio>", audio=str(path), return_tensors="pt")["input_features"][0],
            processor(text="<audio>", audio=wave, sampling_rate=rate, return_tensors="pt")["input_features"][0],
        ]
        for features in heard:
            loudest = features[20:80].mean(0).argmax()
            reference = processor.feature_extractor(sine(1.0, 440, rate=RATE)[0])["input_features"][0]
            assert loudest == reference[20:80].mean(0).argmax()

    def test_wrong_number(self, processor: VideoLlama2AVProcessor, sound: str) -> None:
        with pytest.raises(ValueError, match="found 2 <audio> and 1 sounds"):
            processor(text="<audio><audio>", audio=sound)
        with pytest.raises(ValueError, match="found 1 <audio> and 0 sounds"):
            processor(text="<audio>")

    def test_shorter_than_a_patch(self, processor: VideoLlama2AVProcessor, video: str) -> None:
        with pytest.raises(ValueError, match="shorter than one patch"):
            processor(text="<audio>", audio=np.zeros(1000, np.float32))
        with pytest.raises(ValueError, match=r"tone\.mp4: 0\.050 s of sound are shorter than one patch"):
            ask(processor, videos=video, end=0.05)

    def test_start_and_end_cut_every_form(self, processor: VideoLlama2AVProcessor, sound: str) -> None:
        wave = load_audio(sound)[4000:12000]
        expected = processor.feature_extractor(wave, return_tensors="pt")["input_features"]
        chat = [{"role": "user", "content": [{"type": "audio", "path": sound}, {"type": "text", "text": "What?"}]}]
        cut = {"start": 0.25, "end": 0.75}
        options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "processor_kwargs": dict(cut)}
        for batch in (
            processor(text="<audio>", audio=load_audio(sound), return_tensors="pt", **cut),
            processor(text="<audio>", audio=sound, return_tensors="pt", **cut),
            processor.apply_chat_template(chat, **options),
        ):
            found = batch["input_features"]
            # Decoded from the start and cut, or decoded from there: equal but for the edges.
            assert found.shape == expected.shape
            torch.testing.assert_close(found[:, 4:-4], expected[:, 4:-4], atol=0.5, rtol=0)

    def test_only_what_is_heard_of_a_long_sound_is_decoded(self, folder: Path) -> None:
        path = str(write_sound(folder / "hour.wav", sine(40.0, 300, rate=RATE), rate=RATE, codec="pcm_s16le"))
        options = {"audio": path, "max_audio_seconds": 35, "return_tensors": "pt"}
        assert make_av_processor()(text="<audio>", **options)["input_features"].shape[1] == 2998
        with pytest.raises(MediaTooLarge, match="raise max_audio_seconds"):
            make_av_processor()(text="<audio>", audio_window="center", **options)

    def test_rate_of_bare_waveforms_in_a_chat(self, processor: VideoLlama2AVProcessor) -> None:
        chat = [{"role": "user", "content": [{"type": "audio", "audio": sine(1.0, 500)[0]}]}]
        options = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
        batch = processor.apply_chat_template(chat, processor_kwargs={"sampling_rate": 44100}, **options)
        assert counts(processor, batch)[0]["audio"] == tokens_of(1.0)

    def test_first_channel_on_request(self, folder: Path) -> None:
        """The original's way with files of sound."""
        left, right = sine(1.0, 300, rate=RATE), sine(1.0, 3000, rate=RATE)
        both = np.concatenate([left, right])
        path = str(write_sound(folder / "sides.wav", both, rate=RATE, codec="pcm_s16le"))
        processor = make_av_processor()
        processor.feature_extractor.channel = "first"
        expected = processor.feature_extractor(load_audio(path, channel="first"), return_tensors="pt")
        for form in (path, load_audio(path, channel="first")):
            batch = processor(text="<audio>", audio=form, return_tensors="pt")
            torch.testing.assert_close(batch["input_features"], expected["input_features"])
        assert processor.feature_extractor(both)["input_features"].shape == expected["input_features"].shape

    @pytest.mark.parametrize(
        ("audio", "options", "message"),
        [
            (np.zeros((16000, 2), np.float32), {}, "looks like .samples, channels.: transpose"),
            (np.full(16000, 1000.0), {}, "floats lie in"),
            (np.full(16000, 7), {}, "integers of 16 or 32 bits"),
            ({"array": [0.0] * 16000}, {}, "add its 'sampling_rate'"),
            ((16000, np.zeros(16000)), {}, "pair of rate and samples"),
            (np.zeros(16000), {"sampling_rate": 0}, "sampling_rate=0: give"),
            (np.zeros(16000), {"sampling_rate": -5}, "sampling_rate=-5: give"),
            (np.zeros(16000), {"sampling_rate": "44100"}, "sampling_rate='44100': give"),
            (np.zeros(16000), {"audio_clip_divisor": 7.5}, "audio_clip_divisor=7.5: give 8"),
            (np.zeros(16000), {"max_audio_seconds": -1}, "max_audio_seconds=-1: give seconds"),
            (np.zeros(16000), {"start": "1"}, "start='1': give seconds"),
            (np.zeros(16000), {"start": 2.0}, "no sound after start=2"),
        ],
    )
    def test_wrong_sounds_and_options(
        self, processor: VideoLlama2AVProcessor, audio: Any, options: dict[str, Any], message: str
    ) -> None:
        with pytest.raises((ValueError, TypeError), match=message) as caught:
            processor(text="<audio>", audio=audio, **options)
        assert "\n" not in str(caught.value)

    def test_lists_of_any_numbers(self, processor: VideoLlama2AVProcessor, sound: str) -> None:
        wave = load_audio(sound)
        expected = processor(text="<audio>", audio=wave, return_tensors="pt")["input_features"]
        for form in (list(wave), {"array": wave.tolist(), "sampling_rate": RATE}):
            batch = processor(text="<audio>", audio=form, return_tensors="pt")
            torch.testing.assert_close(batch["input_features"], expected)

    def test_no_sound_at_all(self, processor: VideoLlama2AVProcessor) -> None:
        with pytest.raises(ValueError, match="is empty"):
            processor(text="<audio>", audio=np.zeros(0, np.float32))
        with pytest.raises(Exception, match="Cannot read a sound from"):
            processor(text="<audio>", audio=object())


def test_sounds_stand_in_prompt_order(processor: VideoLlama2AVProcessor, video: str, sound: str, silent: str) -> None:
    """Those of videos and those of their own, over the rows of a batch."""
    text = ["<audio> and <video>", "<video>, <video>", "none", "<audio>"]
    batch = processor(
        text=text,
        videos=[video, silent, video],
        audio=[sound, sound],
        missing_audio="skip",
        padding=True,
        return_tensors="pt",
    )
    one, two = tokens_of(1.0), tokens_of(SECONDS)
    assert [row["audio"] for row in counts(processor, batch)] == [one + two, two, 0, one]
    expected = [load_audio(sound), track_of(video), track_of(video), load_audio(sound)]
    for features, mask, wave in zip(batch["input_features"], batch["input_features_mask"], expected, strict=True):
        alone = processor.feature_extractor(wave, return_tensors="pt")["input_features"][0]
        torch.testing.assert_close(features[: int(mask.sum())], alone[: int(mask.sum())])


def test_batch_of_all_kinds_equals_its_rows(
    processor: VideoLlama2AVProcessor, video: str, silent: str, sound: str
) -> None:
    """Collated rows are the batch, padded on either side."""
    picture = Image.new("RGB", (40, 40), "red")
    rows = [
        {"text": "<video>\nA", "videos": [video]},
        {"text": "<audio>\nLonger question", "audio": [sound]},
        {"text": "<image>\nB", "images": [picture]},
        {"text": "C"},
    ]
    alone = [processor(**row, return_tensors="pt") for row in rows]
    together = processor(
        text=[row["text"] for row in rows],
        videos=[video],
        audio=[sound],
        images=[picture],
        padding=True,
        return_tensors="pt",
    )
    collated = processor.collate(alone, padding_side=processor.tokenizer.padding_side)
    assert set(collated) == set(together)
    for key in together:
        torch.testing.assert_close(collated[key], together[key])


def test_replaced_sound_of_a_video(processor: VideoLlama2AVProcessor, video: str, sound: str, silent: str) -> None:
    """`video_audio`: a waveform, a file, or `None` for no sound, instead of the file's own track."""
    wave = load_audio(sound)
    for replacement in (wave, sound, Path(sound), {"array": wave, "sampling_rate": RATE}):
        batch = ask(processor, videos=silent, video_audio=[replacement])
        expected = processor.feature_extractor(wave, return_tensors="pt")["input_features"]
        torch.testing.assert_close(batch["input_features"], expected)
    assert "input_features" not in ask(processor, videos=video, video_audio=[None], missing_audio="skip")
    with pytest.raises(ValueError, match="2 entries for 1 videos"):
        ask(processor, videos=video, video_audio=[wave, wave])


def test_sounds_of_videos_that_nobody_hears_are_refused(
    processor: VideoLlama2AVProcessor, video: str, sound: str
) -> None:
    for prompt, videos in (("<video>\nWhat?", video), ("What?", None)):
        mute: list[dict[str, Any]] = [{"use_audio_in_video": False}, {"audio_kwargs": {"use_audio_in_video": False}}]
        for options in mute:
            with pytest.raises(ValueError, match=r"video_audio.*use_audio_in_video=False"):
                processor(text=prompt, videos=videos, **{"video_audio": [sound], **options})
    with pytest.raises(ValueError, match="video_audio has 1 entries for 0 videos"):
        processor(text="What?", video_audio=[sound])
    with pytest.raises(ValueError, match=r"video_audio.*use_audio_in_video=False"):
        ask(make_av_processor(use_audio_in_video=False), videos=video, video_audio=[sound])
    # Control: each of the two alone.
    assert "input_features" not in ask(processor, videos=video, use_audio_in_video=False)
    assert "input_features" in ask(processor, videos=video, video_audio=[sound])


def test_one_way_files_are_read_once(processor: VideoLlama2AVProcessor, video: str) -> None:
    class OneWay(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *_: Any) -> int:
            raise io.UnsupportedOperation("seek")

    with open(video, "rb") as stream:
        content = stream.read()
    batch, expected = ask(processor, videos=OneWay(content)), ask(processor, videos=video)
    for key in expected:
        torch.testing.assert_close(batch[key], expected[key])


class TestChat:
    def chat(self, *blocks: dict[str, Any]) -> list[dict[str, Any]]:
        return [{"role": "user", "content": [*blocks, {"type": "text", "text": "What?"}]}]

    def apply(self, processor: VideoLlama2AVProcessor, messages: Any, **kwargs: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return processor.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt", **kwargs
            )

    def test_video_and_audio_blocks(self, processor: VideoLlama2AVProcessor, video: str, sound: str) -> None:
        messages = self.chat({"type": "video", "path": video}, {"type": "audio", "path": sound})
        batch = self.apply(processor, messages)
        assert counts(processor, batch)[0] == {
            "image": 0,
            "video": VIDEO_TOKENS,
            "audio": tokens_of(SECONDS) + tokens_of(1.0),
        }
        assert messages[0]["content"][1] == {"type": "audio", "path": sound}  # the caller's messages stay as they are

    def test_compressed_sound(self, processor: VideoLlama2AVProcessor, folder: Path) -> None:
        """transformers would want torchcodec or soundfile."""
        path = write_sound(folder / "tone.m4a", sine(1.0, 500))
        batch = self.apply(processor, self.chat({"type": "audio", "audio": str(path)}))
        assert counts(processor, batch)[0]["audio"] > 0

    def test_words_of_transformers_for_the_sound_of_videos(self, processor: VideoLlama2AVProcessor, video: str) -> None:
        plain = self.apply(processor, self.chat({"type": "video", "path": video}))
        with_place = self.chat({"type": "video", "path": video}, {"type": "audio"})
        asked = self.apply(processor, with_place, load_audio_from_video=True)
        assert torch.equal(plain["input_ids"], asked["input_ids"])
        mute = self.apply(processor, self.chat({"type": "video", "path": video}), load_audio_from_video=False)
        assert counts(processor, mute)[0]["audio"] == 0
        for said in (True, False):
            own: list[dict[str, Any]] = [
                {"use_audio_in_video": said},
                {"processor_kwargs": {"use_audio_in_video": said}},
                {"processor_kwargs": {"audio_kwargs": {"use_audio_in_video": said}}},
            ]
            for options in own:
                agreed = self.apply(processor, with_place[:1], load_audio_from_video=said, **options)
                assert torch.equal(agreed["input_ids"], (asked if said else mute)["input_ids"])
                with pytest.raises(ValueError, match="load_audio_from_video and use_audio_in_video"):
                    self.apply(processor, with_place[:1], load_audio_from_video=not said, **options)

    def test_batch_of_chats(self, processor: VideoLlama2AVProcessor, video: str, sound: str) -> None:
        chats = [
            self.chat({"type": "video", "path": video}),
            self.chat({"type": "audio", "audio": {"array": load_audio(sound), "sampling_rate": RATE}}),
        ]
        batch = self.apply(processor, chats, processor_kwargs={"padding": True})
        assert [row["audio"] for row in counts(processor, batch)] == [tokens_of(SECONDS), tokens_of(1.0)]

    def test_answers_are_found_behind_media(self, processor: VideoLlama2AVProcessor, video: str) -> None:
        """The mask of assistant words, which training goes by, is not shifted by audio tokens."""
        messages = [
            *self.chat({"type": "video", "path": video}),
            {"role": "assistant", "content": [{"type": "text", "text": "a dog"}]},
        ]
        batch = processor.apply_chat_template(
            messages, tokenize=True, return_dict=True, return_tensors="pt", return_assistant_tokens_mask=True
        )
        learned = batch["input_ids"][0][torch.as_tensor(batch["assistant_masks"])[0].bool()]
        assert processor.tokenizer.decode(learned).replace(" ", "").startswith("adog")
        assert counts(processor, batch)[0]["audio"] > 0


def test_saved_and_loaded(tmp_path: Path, video: str) -> None:
    processor = make_av_processor(audio_first=True, missing_audio="skip", audio_clip_divisor=7)
    processor.save_pretrained(tmp_path)
    loaded = VideoLlama2AVProcessor.from_pretrained(tmp_path)
    for name in ("audio_first", "missing_audio", "audio_clip_divisor", "audio_sampling", "connector_kernel_size"):
        assert getattr(loaded, name) == getattr(processor, name), name
    before, after = ask(processor, videos=video), ask(loaded, videos=video)
    for key in before:
        torch.testing.assert_close(before[key], after[key])


@pytest.mark.parametrize(
    "options", [{"missing_audio": "x"}, {"audio_sampling": "x"}, {"audio_clip_divisor": 0}, {"audio_patch_size": 0}]
)
def test_options_are_checked_when_a_processor_is_made(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        make_av_processor(**options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"audio_config": {"model_type": "whisper"}}, "'whisper', but the audio encoder of this design is BEATs"),
        ({"audio_token_id": 32001}, "audio_token_id 32001 is also the id of images or videos"),
        ({"audio_projector_depth": 0}, "audio_projector_depth must be at least 1"),
    ],
)
def test_configuration_is_checked(change: dict[str, Any], message: str) -> None:
    # Those of `validate_architecture` come wrapped, with the message in the second line.
    with pytest.raises((ValueError, StrictDataclassClassValidationError), match=message):
        VideoLlama2AVConfig(**change)


def test_counts_for_serving_engines(processor: VideoLlama2AVProcessor) -> None:
    data = processor._get_num_multimodal_tokens(
        image_sizes=[(40, 40)], video_sizes=[(4, 40, 40)], audio_lengths=[RATE, 40 * RATE]
    )
    assert data["num_video_tokens"] == [VIDEO_TOKENS]
    assert data["num_image_tokens"] == [VIDEO_TOKENS]  # an image is four equal frames
    assert data["num_audio_tokens"] == [tokens_of(1.0), 1496]
