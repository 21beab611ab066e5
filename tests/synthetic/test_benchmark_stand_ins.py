"""Stand-ins of the benchmarks: their clips show their scenes, and they are the same every time."""

import platform
import wave
from pathlib import Path

import av
import numpy as np
import pytest
import ready_python
from PIL import Image

from hf_videollm.synthetic.benchmarks import STAND_INS, find_stand_in, write_stand_in
from hf_videollm.synthetic.benchmarks.__main__ import main
from hf_videollm.synthetic.benchmarks.media import known_questions, write_picture, write_video, write_wav
from hf_videollm.synthetic.render import render_audio, render_scene
from hf_videollm.synthetic.scene import QUESTION_KINDS, VIDEO_QUESTION_KINDS, make_scene, questions_for, split_of

SCENE = make_scene(2_000_003)


def decoded(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv", ".gif"])
def test_a_clip_shows_its_scene_in_every_format(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"folder/clip{suffix}"
    write_video(SCENE, path)
    shown, scene = decoded(path), render_scene(SCENE)
    assert shown.shape == scene.shape
    error = np.abs(shown.astype(int) - scene).mean()
    assert error < 6
    # Control: another scene is far off.
    assert np.abs(shown.astype(int) - render_scene(make_scene(2_000_001, num_frames=len(scene)))).mean() > 2 * error


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"A clip ends with \.mp4, .*, not with '\.mov'"):
        write_video(SCENE, tmp_path / "clip.mov")


def test_sounds_and_pictures(tmp_path: Path) -> None:
    write_wav(SCENE, tmp_path / "a.wav")
    with wave.open(str(tmp_path / "a.wav"), "rb") as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2") / 32767
    assert np.allclose(samples, render_audio(SCENE), atol=1e-4)
    for name in ("a.png", "a.jpg"):
        write_picture(SCENE, tmp_path / name)
        with Image.open(tmp_path / name) as picture:
            middle = render_scene(SCENE)[SCENE.num_frames // 2]
            assert np.abs(np.asarray(picture).astype(int) - middle).mean() < 5


def test_known_questions_are_held_out_and_true() -> None:
    known = known_questions(30, seed=2, kinds=QUESTION_KINDS)
    assert len(known) == 30
    for each in known:
        assert split_of(each.scene.seed) == "test"
        assert each.qa in questions_for(each.scene, sound=True)
    clips = {each.scene: each.clip for each in known}
    assert len(set(clips.values())) == len(clips)
    assert not {each.scene.seed for each in known} & {each.scene.seed for each in known_questions(30, seed=3)}


def test_few_questions_of_a_scene() -> None:
    known = known_questions(12, per_scene=1)
    assert len({each.scene.seed for each in known}) == 12
    assert {each.qa.kind for each in known_questions(12, kinds=("count",))} == {"count"}
    assert {each.qa.kind for each in known_questions(40)} == set(VIDEO_QUESTION_KINDS)


@pytest.mark.parametrize("seed", [-1, 100])
def test_seeds_stay_among_the_held_out_scenes(seed: int) -> None:
    with pytest.raises(ValueError, match="seed must be from 0 to 99"):
        known_questions(1, seed)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Writes all stand-ins. Its last file is a control: it has the content of memory that nobody wrote.
WRITE_ALL = """
import ctypes, sys
from pathlib import Path
# M_PERTURB of the C library: new memory is filled with a byte.
getattr(ctypes.CDLL(None), "mallopt", lambda *_: None)(-6, int(sys.argv[2]))
import numpy as np
from hf_videollm.synthetic.benchmarks.__main__ import main
code = main([sys.argv[1], "--count", "4"])
(Path(sys.argv[1]) / "unwritten").write_bytes(np.empty(5000, dtype=np.uint8).tobytes())
sys.exit(code)
"""


@pytest.fixture(scope="module")
def written_twice(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """All stand-ins by two processes. In each, the C library fills new memory with another byte."""
    folders = [tmp_path_factory.mktemp("stand_ins") / "written" for _ in range(2)]
    for folder, byte in zip(folders, ("1", "85"), strict=True):
        done = ready_python.run("-c", WRITE_ALL, folder, byte)
        assert done.returncode == 0, done.stderr
    return folders


@pytest.mark.parametrize("name", STAND_INS)
def test_the_same_seed_gives_the_same_files(written_twice: list[Path], tmp_path: Path, name: str) -> None:
    first, second = (contents(folder / name) for folder in written_twice)
    assert first.keys() == second.keys()
    assert [path for path in first if first[path] != second[path]] == []
    write_stand_in(name, tmp_path, count=4, seed=1)
    assert first != contents(tmp_path)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="M_PERTURB is of glibc")
def test_control_memory_that_nobody_wrote_differs(written_twice: list[Path]) -> None:
    first, second = ((folder / "unwritten").read_bytes() for folder in written_twice)
    assert first != second


def test_an_unknown_stand_in_is_named_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"There is no stand-in of 'msvd': .*msvd_qa"):
        find_stand_in("msvd")


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "--tasks", "msvd_qa, clotho_aqa", "--count", "3"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clotho_aqa", "msvd_qa"]
    assert f"msvd_qa: {tmp_path / 'msvd_qa'}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tasks", "msvd_qa,clotho"], "There is no stand-in of 'clotho'"),
        (["--count", "0"], "--count must be at least 1, got 0"),
        (["--seed", "-1"], "seed must be from 0 to 99, got -1"),
    ],
)
def test_wrong_arguments_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main([str(tmp_path / "out"), "--tasks", "msvd_qa", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    # Names and numbers are checked before anything is written.
    assert not list(tmp_path.rglob("*.json"))
