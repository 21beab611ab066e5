"""A model for VLMEvalKit, which has MMBench-Video.

    python examples/vlmevalkit_wrapper.py                                   # a made-up clip and the bundled model
    python examples/vlmevalkit_wrapper.py my.mp4 "What happens?" --model ./pllava-7b

VLMEvalKit runs the models of its table. A script that adds one and starts VLMEvalKit's own run.py:

    from functools import partial
    import runpy, sys
    from vlmeval.config import supported_VLM
    from vlmevalkit_wrapper import HfVideoLlm

    supported_VLM["my-pllava"] = partial(HfVideoLlm, "./pllava-7b", dtype="bfloat16")
    sys.argv = ["run.py", "--data", "MMBench_Video_8frame_nopack", "--model", "my-pllava"]
    runpy.run_path("run.py", run_name="__main__")

It was tried on a stub of VLMEvalKit's base class: VLMEvalKit itself is not on PyPI.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers.utils import logging

import hf_videollm
from hf_videollm.synthetic.clips import make_scene, questions_for, write_scene_mp4

try:
    from vlmeval.vlm.base import BaseModel
except ImportError:
    # Without VLMEvalKit, the class still answers messages in its form.
    BaseModel = object


class HfVideoLlm(BaseModel):
    """Answers messages of VLMEvalKit.

    Attributes:
        VIDEO_LLM: VLMEvalKit sends the video itself, not its frames as pictures.
        allowed_types: kinds of parts that a message may have.
        nframe: frames to sample. VLMEvalKit puts the number of the data set there, or None where it says `fps`.
        fps: frames to sample per second; used where `nframe` is None.
    """

    VIDEO_LLM = True
    INTERLEAVE = True
    allowed_types = ("text", "image", "video")

    def __init__(
        self,
        model: str,
        dtype: str = "auto",
        device: str | None = None,
        nframe: int | None = 8,
        fps: float | None = 1.0,
        max_new_tokens: int = 512,
        **options: Any,
    ) -> None:
        """Args:
        model: folder, Hub id or name of a bundled checkpoint.
        dtype: of the weights.
        device: a torch device; a GPU where there is one by default.
        nframe: see above.
        fps: see above.
        max_new_tokens: longest answer.
        **options: other options of the pipeline, e.g. `use_audio_in_video=True`.
        """
        self.pipe = hf_videollm.load_pipeline(model, dtype=dtype, device=device)
        self.nframe, self.fps, self.max_new_tokens, self.options = nframe, fps, max_new_tokens, options

    def generate_inner(self, message: Sequence[dict[str, Any]], dataset: str | None = None) -> str:
        """The answer to a message: parts `{"type": "text" | "image" | "video", "value": ...}` in their order.

        Raises:
            ValueError: a part is of another type.
        """
        options = {**self.options, "max_new_tokens": self.max_new_tokens, "return_full_text": False}
        if any(part["type"] == "video" for part in message):
            options |= {"num_frames": self.nframe} if self.nframe is not None else {"fps": self.fps}
        chat = [{"role": "user", "content": [self._block(part) for part in message]}]
        answer: str = self.pipe(chat, **options)[0]["generated_text"]
        return answer.strip()

    def _block(self, part: dict[str, Any]) -> dict[str, Any]:
        kind, value = part["type"], part["value"]
        if kind not in self.allowed_types:
            raise ValueError(f"A part of type {kind!r} cannot be shown: {', '.join(self.allowed_types)} can.")
        return {"type": "text", "text": value} if kind == "text" else {"type": kind, "path": str(value)}


def main() -> None:
    """Ask as VLMEvalKit asks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", nargs="?", help="a video; a made-up clip when left out")
    parser.add_argument("question", nargs="?", default="What happens in the video?")
    parser.add_argument("--model", default=hf_videollm.default_checkpoint(), help="folder or Hub id")
    arguments = parser.parse_args()

    logging.disable_progress_bar()
    model = HfVideoLlm(arguments.model)
    if arguments.video:
        print(ask(model, arguments.video, arguments.question))
        return
    scene = make_scene(2_000_000, kind="motion")
    with tempfile.TemporaryDirectory() as folder:
        video = str(Path(folder) / "clip.mp4")
        write_scene_mp4(scene, video)
        for asked in questions_for(scene):
            print(f"{asked.question} {ask(model, video, asked.question)} (right: {asked.answer})")


def ask(model: HfVideoLlm, video: str, question: str) -> str:
    """The answer to a message in VLMEvalKit's form."""
    return model.generate_inner([{"type": "video", "value": video}, {"type": "text", "value": question}])


if __name__ == "__main__":
    main()
