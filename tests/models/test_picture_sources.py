"""Pictures and arrays as frames: as every viewer shows them, by one rule for all modes, types and forms."""

from __future__ import annotations

import base64
import io
import os
import signal
import socket
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from media_corpus import number_picture, read_numbers
from PIL import Image, ImageOps, ImageSequence

from hf_videollm.models.errors import Deadline
from hf_videollm.models.media_frames import load_picture
from hf_videollm.models.media_pictures import is_moving, picture_suffixes
from hf_videollm.models.media_video import (
    CorruptMedia,
    MediaError,
    MediaLimits,
    MediaTooLarge,
    UnsupportedMedia,
    load_audio,
    load_video,
)
from hf_videollm.models.media_video_inputs import flatten_videos
from hf_videollm.models.video_processing_video_llm import VideoLlmVideoProcessor
from hf_videollm.synthetic.tiny.pllava import build_tiny_pllava


def save(picture: Image.Image, form: str, **options) -> bytes:
    target = io.BytesIO()
    picture.save(target, form, **options)
    return target.getvalue()


def corner_picture() -> Image.Image:
    """64 x 48 with four different corners: any turn or mirror moves them."""
    picture = np.full((48, 64, 3), 20, np.uint8)
    picture[:24, :32], picture[:24, 32:], picture[24:, :32] = (230, 0, 0), (0, 160, 0), (0, 0, 90)
    return Image.fromarray(picture)


def forms_of(data: bytes, folder: Path, suffix: str) -> dict[str, object]:
    """Three frames of one picture file, in every form in which frames may be given."""
    folder.mkdir()
    paths = [folder / f"{number}{suffix}" for number in range(3)]
    for path in paths:
        path.write_bytes(data)
    return {
        "folder": folder,
        "names of paths": [str(path) for path in paths],
        "paths": paths,
        "bytes": [data] * 3,
        "file objects": [io.BytesIO(data) for _ in paths],
        "rows of datasets": [{"bytes": data, "path": None}, {"bytes": None, "path": str(paths[0])}, {"bytes": data}],
        "opened": [Image.open(path) for path in paths],
        "opened bytes": [Image.open(io.BytesIO(data)) for _ in paths],
        "all kinds": [paths[0], Image.open(paths[1]), data],
    }


# --- orientation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("form", "suffix"), [("JPEG", ".jpg"), ("PNG", ".png"), ("WEBP", ".webp"), ("TIFF", ".tif")])
def test_orientation_in_every_form(form: str, suffix: str, tmp_path: Path) -> None:
    stored = corner_picture()
    seen = set()
    for orientation in range(1, 9):
        tags = Image.Exif()
        tags[0x0112] = orientation
        data = save(stored, form, exif=tags)
        with Image.open(io.BytesIO(data)) as picture:
            shown = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
        seen.add((shown[0, 0].argmax(), shown[0, -1].argmax(), shown.shape))
        for kind, source in forms_of(data, tmp_path / str(orientation), suffix).items():
            frames, metadata = load_video(source)
            assert np.array_equal(frames, np.stack([shown] * 3)), (orientation, kind)
            assert (metadata.height, metadata.width) == shown.shape[:2]
    assert len(seen) > 4  # the control: turns that differ


def test_orientation_of_images_of_prompts() -> None:
    limits = MediaLimits()
    for orientation in range(1, 9):
        tags = Image.Exif()
        tags[0x0112] = orientation
        data = save(corner_picture(), "PNG", exif=tags)
        with Image.open(io.BytesIO(data)) as picture:
            shown = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
        for source in (data, Image.open(io.BytesIO(data)), {"bytes": data, "path": None}):
            assert np.array_equal(np.asarray(load_picture(source, limits, Deadline(10))), shown)


def test_images_of_prompts_in_every_form(tmp_path: Path) -> None:
    """Through a processor: turned, and with the range of their depth, whether opened or named."""
    _, processor = build_tiny_pllava(num_frames=2, image_size=32, patch_size=8, pooling_shape=(1, 2, 2))

    def pixels(image: object) -> torch.Tensor:
        return processor(text=f"{processor.image_token} x", images=image, return_tensors="pt")["pixel_values"]

    tags = Image.Exif()
    tags[0x0112] = 6
    turned = save(corner_picture(), "PNG", exif=tags)
    deep = save(Image.fromarray(ramp()), "PNG")
    seen = []
    for data in (turned, deep):
        path = tmp_path / "image.png"
        path.write_bytes(data)
        shown = load_video([data])[0][0]
        expected = pixels(Image.fromarray(shown))
        seen.append(expected)
        url = "data:image/png;base64," + base64.b64encode(data).decode()
        forms = [
            path,
            str(path),
            data,
            io.BytesIO(data),
            {"bytes": data, "path": None},
            {"bytes": None, "path": str(path)},
        ]
        for form in [*forms, url, Image.open(path), Image.open(io.BytesIO(data))]:
            for images in (form, [form]):
                assert torch.equal(pixels(images), expected), form
    assert not torch.equal(seen[0], pixels(corner_picture()))  # the control: as stored
    with pytest.raises(UnsupportedMedia, match="whole numbers"):
        pixels(Image.fromarray(np.full((8, 8), 0.5, np.float32)))


def test_a_picture_with_a_broken_exif_block_is_shown_as_stored(tmp_path: Path) -> None:
    for block in (b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12" * 40):
        path = tmp_path / "frame.jpg"
        corner_picture().save(path, exif=block)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert load_video([path])[0].shape == (1, 48, 64, 3)


# --- modes ---------------------------------------------------------------------------------------------------------


def ramp() -> np.ndarray:
    """16 bits, from black to white over 8 x 32."""
    return np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(8, 32)


def palette_with_transparency() -> Image.Image:
    picture = corner_picture().quantize(4)
    picture.info["transparency"] = bytes([0, 128, 255, 255])
    return picture


MODES: dict[str, Callable[[], Image.Image]] = {
    **{
        mode: lambda mode=mode: corner_picture().convert(mode)
        for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
    },
    "PA": lambda: corner_picture().convert("LA").convert("PA"),
    "RGBa": lambda: corner_picture().convert("RGBA").convert("RGBa"),
    "La": lambda: corner_picture().convert("LA").convert("La"),
    "P with transparency": palette_with_transparency,
}


@pytest.mark.parametrize("mode", MODES)
def test_eight_bits_are_what_pil_makes_of_them(mode: str) -> None:
    picture = MODES[mode]()
    if picture.mode in ("La", "RGBa"):
        expected = np.asarray(picture.convert({"La": "LA", "RGBa": "RGBA"}[picture.mode]).convert("RGB"))
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = np.asarray(picture.convert("RGB"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frames, _ = load_video([picture] * 2)
    np.testing.assert_array_equal(frames, np.stack([expected] * 2))
    assert frames.max() > 80
    assert frames.min() < 40


def test_sixteen_bits_keep_their_range(tmp_path: Path) -> None:
    """Also of files; PIL's own way to RGB cuts at 255, which would make it white."""
    deep, expected = Image.fromarray(ramp()), np.repeat((ramp() / 257).round().astype(np.uint8)[:, :, None], 3, axis=2)
    assert deep.mode == "I;16"
    assert (np.asarray(deep.convert("RGB")) == 255).mean() > 0.9  # the control
    sources: list[object] = [deep, Image.fromarray(ramp().astype(">u2"))]
    for form in ("PNG", "TIFF", "PPM", "JPEG2000"):
        data = save(deep, form, **({"irreversible": False} if form == "JPEG2000" else {}))
        sources += [data, Image.open(io.BytesIO(data))]
        (tmp_path / f"{form}.{'jp2' if form == 'JPEG2000' else form.lower()}").write_bytes(data)
    for source in sources:
        np.testing.assert_array_equal(load_video([source])[0][0], expected)
    np.testing.assert_array_equal(load_video(tmp_path)[0], np.stack([expected] * 4))


def test_modes_without_a_range_follow_the_rule_of_arrays() -> None:
    grey = np.asarray(corner_picture().convert("L"))
    frames, _ = load_video([Image.fromarray(grey.astype(np.int32))])
    np.testing.assert_array_equal(frames[0], np.repeat(grey[:, :, None], 3, axis=2))
    for numbers in (grey.astype(np.int32) * 200, grey.astype(np.int32) - 100, grey.astype(np.float32) / 255):
        with pytest.raises(UnsupportedMedia, match="whole numbers from 0 to 255"):
            load_video([Image.fromarray(numbers)])
        data = save(Image.fromarray(numbers), "TIFF")
        with pytest.raises(UnsupportedMedia, match="whole numbers from 0 to 255"):
            load_video([data])


# --- arrays --------------------------------------------------------------------------------------------------------

WHOLE = [np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64]
LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "(T, H, W, 3)": lambda rgb: rgb,
    "(T, 3, H, W)": lambda rgb: rgb.transpose(0, 3, 1, 2),
    "(T, H, W, 1)": lambda rgb: rgb[..., :1],
    "(T, 1, H, W)": lambda rgb: rgb[:, None, :, :, 0],
    "(T, H, W, 4)": lambda rgb: np.concatenate([rgb, rgb[..., :1] // 2], axis=-1),
    "(T, 4, H, W)": lambda rgb: np.concatenate([rgb, rgb[..., :1] // 2], axis=-1).transpose(0, 3, 1, 2),
    "turned over": lambda rgb: np.ascontiguousarray(rgb[:, ::-1])[:, ::-1],
}


def clip_of_numbers(count: int = 4) -> np.ndarray:
    return np.stack([number_picture(number) for number in range(count)])


def frames_by_processor(source: object, **options) -> torch.Tensor:
    options = {"do_rescale": False, "do_normalize": False, **options}
    processor = VideoLlmVideoProcessor(do_resize=False, do_center_crop=False, num_frames=4, **options)
    return processor(source, return_tensors="pt")["pixel_values_videos"][0]


def assert_is_clip(source: object, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(load_video(source)[0], expected)
    by_processor = frames_by_processor(source)
    np.testing.assert_array_equal(by_processor.permute(0, 2, 3, 1).numpy(), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("make", [np.asarray, lambda array: torch.from_numpy(array.copy())], ids=["numpy", "torch"])
def test_whole_numbers_of_every_type_and_layout(layout: str, make) -> None:
    clip = clip_of_numbers()
    array = LAYOUTS[layout](clip)
    kinds = [*WHOLE, np.int8] if array.max() < 128 else WHOLE
    for kind in kinds:
        assert_is_clip(make(array.astype(kind)), clip)
        assert_is_clip([make(frame) for frame in array.astype(kind)], clip)
    black_and_white = array > 128
    assert_is_clip(make(black_and_white), (clip > 128).astype(np.uint8) * 255)
    assert_is_clip([make(frame) for frame in black_and_white], (clip > 128).astype(np.uint8) * 255)


def test_grey_frames_without_an_axis_of_channels() -> None:
    clip = clip_of_numbers()
    for kind in (*WHOLE, bool):
        grey = clip[..., 0] > 128 if kind is bool else clip[..., 0].astype(kind)
        expected = (clip > 128).astype(np.uint8) * 255 if kind is bool else clip
        np.testing.assert_array_equal(load_video(list(grey))[0], expected)
        np.testing.assert_array_equal(frames_by_processor(list(grey)).permute(0, 2, 3, 1).numpy(), expected)
        np.testing.assert_array_equal(load_video(list(map(torch.from_numpy, grey)))[0], expected)


WRONG = {
    "floats up to 1": lambda clip: clip / 255,
    "floats up to 255": lambda clip: clip.astype(np.float32),
    "half floats": lambda clip: (clip / 255).astype(np.float16),
    "complex": lambda clip: clip.astype(np.complex64),
    "16 bits": lambda clip: clip.astype(np.uint16) * 257,
    "negative": lambda clip: clip.astype(np.int64) - 17,
    "one too many": lambda clip: clip.astype(np.int32) + 21,
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("make", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
def test_numbers_without_a_range_are_refused_with_the_rule(kind: str, make) -> None:
    array = WRONG[kind](clip_of_numbers(2))
    is_float = kind in ("floats up to 1", "floats up to 255", "half floats")
    for source in (make(array), [make(frame) for frame in array], list(make(array[..., 0]))):
        with pytest.raises(UnsupportedMedia, match="whole numbers from 0 to 255 in any integer type"):
            load_video(source)
    for source in (make(array), [make(frame) for frame in array]):
        with pytest.raises(ValueError, match="pass uint8" if is_float else "whole numbers from 0 to 255") as caught:
            frames_by_processor(source, do_rescale=True)
        assert "\n" not in str(caught.value)


def test_other_types_of_arrays() -> None:
    for array in (np.full((2, 8, 8, 3), "a"), np.full((2, 8, 8, 3), None), np.zeros((2, 8, 8, 3), "datetime64[s]")):
        for load in (load_video, frames_by_processor):
            for source in (array, list(array)):
                with pytest.raises(UnsupportedMedia, match="whole numbers"):
                    load(source)
    with pytest.raises(UnsupportedMedia, match="bfloat16"):
        load_video(torch.zeros(2, 8, 8, 3, dtype=torch.bfloat16))
    for tensor in (torch.zeros(2, 8, 8, 3).to_sparse(), torch.zeros(2, 8, 8, 3, device="meta", dtype=torch.uint8)):
        for load in (load_video, frames_by_processor):
            with pytest.raises(UnsupportedMedia, match="no plain tensor"):
                load(tensor)
    for shape in ((2, 0, 8, 3), (2, 8, 0, 3), (0, 8, 8, 3)):
        for load in (load_video, frames_by_processor):
            with pytest.raises(ValueError, match=r"shape|no frames"):
                load(np.zeros(shape, np.uint8))


def test_floats_for_the_processor_lie_between_0_and_1() -> None:
    clip = clip_of_numbers()
    ready = {"do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    expected = frames_by_processor(clip, do_rescale=True, **ready)
    for make in (np.asarray, torch.as_tensor):
        for kind in (np.float16, np.float32, np.float64):
            array = (clip / 255).astype(kind)
            for source in (make(array), [make(frame) for frame in array]):
                got = frames_by_processor(source, **ready)
                assert got.dtype == torch.float32
                torch.testing.assert_close(got, expected, atol=2e-3, rtol=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learned = torch.from_numpy(clip / 255).requires_grad_()
        assert not frames_by_processor(learned, **ready).requires_grad
    torch.testing.assert_close(
        frames_by_processor(torch.from_numpy(clip / 255).bfloat16(), **ready), expected, atol=2e-2, rtol=0
    )
    for numbers in (clip.astype(np.float32), clip / 255 - 0.5, np.where(clip == 16, np.nan, 0), clip / 255 * np.inf):
        with np.errstate(all="ignore"), pytest.raises(UnsupportedMedia, match=r"between 0 and 1|NaN or infinity"):
            frames_by_processor(numbers, **ready)
    # Values that are normalised already have any range, but no NaN.
    assert frames_by_processor(clip / 255 * 4 - 2).min() < -1
    with pytest.raises(UnsupportedMedia, match="NaN"):
        frames_by_processor(np.where(clip == 16, np.nan, 0))
    with pytest.raises(ValueError, match="one kind"):
        frames_by_processor([clip[0], clip[1] / 255])


def test_memory_that_may_not_be_written_is_read_without_a_warning() -> None:
    clip = clip_of_numbers()
    clip.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_is_clip(clip, clip)
        assert_is_clip(list(clip), clip)


# --- files of pictures ---------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:IM image format:DeprecationWarning")  # of PIL, for files of that format alone
def test_every_suffix_that_pil_reads_is_a_frame_in_a_folder(tmp_path: Path) -> None:
    tried, reading = set(), Image.registered_extensions()
    for number, suffix in enumerate(picture_suffixes()):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = folder / f"frame{suffix.upper() if number % 2 else suffix}"
        picture = corner_picture()
        for mode in ("RGB", "L", "1", "P"):
            try:
                picture.convert(mode).save(path, reading[suffix])
                with Image.open(path) as opened:
                    opened.load()
                break
            except Exception:  # PIL does not write this format, or not in this mode
                path.unlink(missing_ok=True)
        if not path.exists():
            continue
        (folder / "notes.txt").write_text("no frame")
        (folder / ".hidden.png").write_bytes(b"no picture")
        tried.add(suffix)
        with Image.open(path) as opened:
            expected = np.asarray(opened.convert("RGB"))
        np.testing.assert_array_equal(load_video(folder)[0][0], expected, err_msg=suffix)
    assert {".png", ".jpg", ".jfif", ".jp2", ".webp", ".bmp", ".tiff", ".ppm", ".pgm", ".tga", ".gif", ".pcx"} <= tried
    assert len(tried) > 30
    # What PIL knows by name alone, or reads by running another program, is none.
    assert not {".eps", ".ps", ".h5", ".grib", ".pdf", ".mpg", ".txt"} & set(picture_suffixes())


def test_no_picture_runs_another_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PIL hands EPS to Ghostscript, whatever the file is called."""
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *args, **kwargs: pytest.fail("run"))
    (tmp_path / "0.png").write_bytes(save(corner_picture(), "EPS"))
    for source in (tmp_path, [tmp_path / "0.png"], [(tmp_path / "0.png").read_bytes()]):
        with pytest.raises(CorruptMedia):
            load_video(source)
    with pytest.raises(CorruptMedia):
        load_picture(tmp_path / "0.png", MediaLimits(), Deadline(10))


def test_damaged_pictures_are_typed(tmp_path: Path) -> None:
    drawn = np.random.default_rng(0)
    for form, suffix in (("PNG", ".png"), ("JPEG", ".jpg"), ("WEBP", ".webp"), ("TIFF", ".tif"), ("GIF", ".gif")):
        data = save(corner_picture(), form)
        for trial in range(12):
            broken = bytearray(data[: drawn.integers(8, len(data))] if trial % 2 else data)
            for place in drawn.integers(0, len(broken), 8):
                broken[place] = drawn.integers(256)
            (tmp_path / f"frame{suffix}").write_bytes(broken)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    load_video(tmp_path)
                except MediaError as error:
                    assert "\n" not in str(error)  # noqa: PT017 (either may happen)
        (tmp_path / f"frame{suffix}").unlink()


# --- animations ----------------------------------------------------------------------------------------------------


def moving(form: str, count: int = 6) -> bytes:
    pictures = [Image.fromarray(number_picture(number)) for number in range(count)]
    options = {"lossless": True} if form == "WEBP" else {"quality": 100} if form == "AVIF" else {}
    if form != "TIFF":
        options["duration"] = 100
    return save(pictures[0], form, save_all=True, append_images=pictures[1:], **options)


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "AVIF", "TIFF"])
def test_an_opened_animation_is_its_frames(form: str, tmp_path: Path) -> None:
    if form == "AVIF" and ".avif" not in picture_suffixes():
        pytest.skip("this Pillow knows no AVIF")
    data = moving(form)
    path = tmp_path / "moves.bin"
    path.write_bytes(data)
    opened = (lambda: Image.open(path), lambda: Image.open(io.BytesIO(data)))
    for make in opened:
        for place in (0, 3):
            picture = make()
            picture.seek(place)
            for source in (picture, [picture], list(ImageSequence.Iterator(make()))):
                (video,) = flatten_videos(source)
                frames, metadata = load_video(video)
                assert read_numbers(frames) == list(range(6))
                assert metadata.total_num_frames == 6
                by_processor = frames_by_processor(source)
                assert read_numbers(by_processor.permute(0, 2, 3, 1).numpy()) == [0, 2, 3, 5]
        assert len(flatten_videos([make(), make()])) == 2
        again = make()
        assert len(flatten_videos([again, again])) == 2  # no iteration: that would be six
        # Among frames it would be one of them, and nobody knows which.
        still = Image.fromarray(number_picture(0))
        for mixed in ([still, make()], [make(), still]):
            with pytest.raises(UnsupportedMedia, match="holds 6 pictures"):
                load_video(mixed)
        # Copies of its pictures are frames like others.
        copies = [frame.convert("RGB") for frame in ImageSequence.Iterator(make())]
        assert read_numbers(load_video(copies)[0]) == list(range(6))
    with pytest.raises(UnsupportedMedia, match="holds 6 pictures"):
        load_video([data, data])


def test_an_opened_gif_is_read_as_its_path_is(tmp_path: Path) -> None:
    """Transparency and partial frames too: with the times of its frames, and for every backend."""
    path = tmp_path / "moves.gif"
    drawn = np.random.default_rng(0)
    pictures = []
    for number in range(5):
        picture = Image.fromarray(drawn.integers(0, 2, (40, 60, 3), np.uint8) * 255).convert("RGBA")
        picture.paste((0, 0, 0, 0), (10 * number, 5, 10 * number + 20, 30))
        pictures.append(picture)
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=[100, 200, 300, 100, 100], disposal=2)
    expected, about = load_video(path)
    for picture in (Image.open(path), Image.open(io.BytesIO(path.read_bytes()))):
        frames, metadata = load_video(picture)
        np.testing.assert_array_equal(frames, expected)
        assert metadata.timestamps == about.timestamps
        late, about_late = load_video(path, start=0.15)
        np.testing.assert_array_equal(load_video(picture, start=0.15)[0], late)
        assert about_late.frames_indices[0] > 0
        picture.seek(2)  # it still works


def test_pictures_that_belong_to_one_are_stills(tmp_path: Path) -> None:
    """Phones write a JPEG with a second picture in it, and scanners a TIFF with a thumbnail."""
    front, back = corner_picture(), Image.new("RGB", (64, 48))
    photo = save(front.copy(), "MPO", save_all=True, append_images=[back])
    scan = save(front.copy(), "TIFF", save_all=True, append_images=[back.resize((16, 12))])
    for data in (photo, scan):
        picture = Image.open(io.BytesIO(data))
        assert picture.n_frames == 2
        assert not is_moving(picture)
        frames, _ = load_video([picture, data])
        assert np.abs(frames.astype(int) - np.asarray(front)).mean() < 5
    assert is_moving(Image.open(io.BytesIO(save(front.copy(), "TIFF", save_all=True, append_images=[front]))))


# --- budgets and special files -------------------------------------------------------------------------------------


@pytest.fixture
def in_time() -> Iterator[None]:
    """A test that would wait for ever fails instead."""

    def fail(*args: object) -> None:
        raise TimeoutError("still waiting")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs on this system")
@pytest.mark.usefixtures("in_time")
@pytest.mark.parametrize("suffix", [".png", ".mp4", ".wav"])
def test_what_is_no_regular_file_is_never_opened(suffix: str, tmp_path: Path) -> None:
    special = {}
    for kind in ("fifo", "socket", "folder", "link", "device"):
        folder = tmp_path / kind
        folder.mkdir()
        special[kind] = folder / f"0{suffix}"
    os.mkfifo(special["fifo"])
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(special["socket"]))
    special["folder"].mkdir()
    special["link"].symlink_to(special["fifo"])
    special["device"].symlink_to("/dev/zero")
    with listener:
        for kind, path in special.items():
            sources = [str(path), path, path.as_uri(), {"bytes": None, "path": str(path)}, [str(path)], [path]]
            sources += [[{"bytes": None, "path": str(path)}]]
            if suffix == ".png":
                sources.append(path.parent)
            for source in sources:
                for load in (load_video, load_audio):
                    with pytest.raises(MediaError) as caught:
                        load(source)
                    assert "\n" not in str(caught.value)
                    if load is load_video and kind != "folder":
                        assert "regular file" in str(caught.value)
            with pytest.raises(MediaError):
                load_picture(path, MediaLimits(), Deadline(10))


def test_every_budget_counts_for_pictures(tmp_path: Path) -> None:
    paths = []
    for number in range(5):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(number_picture(number)).save(paths[-1])
    size = sum(path.stat().st_size for path in paths)
    opened = [Image.open(path) for path in paths]
    array = clip_of_numbers(5)
    files: list[object] = [tmp_path, paths, [path.read_bytes() for path in paths]]
    for limits, words, sources in (
        ({"max_bytes": size - 1}, "max_bytes", files),
        ({"max_frames": 4}, "max_frames", [*files, opened, array]),
        ({"max_pixels": 64 * 48 - 1}, "max_pixels", [*files, opened, array]),
        ({"max_decoded_bytes": array.size - 1}, "max_decoded_bytes", [*files, opened, array]),
        ({"timeout": 0.0}, "timeout", [*files, opened, array]),
    ):
        for source in sources:
            with pytest.raises(MediaTooLarge, match=words) as caught:
                load_video(source, limits=MediaLimits(**limits))
            assert "\n" not in str(caught.value)
    just = MediaLimits(max_bytes=size, max_frames=5, max_pixels=64 * 48, max_decoded_bytes=array.size)
    for source in [*files, opened, array]:
        assert read_numbers(load_video(source, limits=just)[0]) == list(range(5))
    # Only what is read counts, and a frame that is asked for again counts once.
    few = MediaLimits(max_bytes=size // 2)
    assert len(load_video(paths, sample_indices_fn=lambda metadata: [0, 0, 1, 1, 1, 1], limits=few)[0]) == 6


def test_the_time_limit_is_looked_at_between_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])

    def slow(frame: np.ndarray) -> np.ndarray:
        now[0] += 1.0
        return frame

    assert len(load_video(clip_of_numbers(5), frame_fn=slow, limits=MediaLimits(timeout=5.5))[0]) == 5
    with pytest.raises(MediaTooLarge, match="timeout"):
        load_video(clip_of_numbers(5), frame_fn=slow, limits=MediaLimits(timeout=3.5))


def test_a_picture_too_large_for_pil_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(MediaTooLarge, match="PIL"):
            load_video([save(corner_picture(), "PNG")])


def test_pictures_from_addresses_follow_the_url_policy() -> None:
    with pytest.raises(MediaError, match="not allowed"):
        load_video(["http://127.0.0.1/0.png"])
    data = save(corner_picture(), "PNG")
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    np.testing.assert_array_equal(load_video([url])[0][0], np.asarray(corner_picture()))


def test_pictures_without_pixels_are_refused() -> None:
    for size in ((0, 5), (5, 0)):
        with pytest.raises(UnsupportedMedia, match="no pixels"):
            load_video([Image.new("RGB", size)])


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(b"no picture")
    for source in (tmp_path, [tmp_path / "1.png"], [b"no picture"]):
        with pytest.raises(CorruptMedia, match=r"1\.png|<bytes>"):
            load_video(source)
