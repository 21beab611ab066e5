"""Ask a video-language model questions about a video.

    python examples/ask.py                                        # a made-up clip and the bundled model
    python examples/ask.py my.mp4 "What happens?" --model ./pllava-7b --dtype bfloat16

Without arguments, a clip with a known answer is written into a temporary folder, so that you can check the answers. The
bundled model can answer questions about such clips only. For your own videos, convert a released checkpoint first
(docs/how_to/convert.md).
"""

import argparse
import tempfile
from pathlib import Path

from transformers.utils import logging

import hf_videollm
from hf_videollm.synthetic.clips import make_scene, questions_for, write_scene_mp4


def main() -> None:
    """Ask in three ways: one question, a part of the video, and a second question in a conversation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", nargs="?", help="a video; a made-up clip if omitted")
    parser.add_argument("question", nargs="?", default="What happens in the video?")
    parser.add_argument("--model", default=hf_videollm.default_checkpoint(), help="folder or Hub id")
    parser.add_argument("--dtype", default="auto", help="float32, bfloat16, float16, or auto: the type of the weights")
    arguments = parser.parse_args()

    logging.disable_progress_bar()
    pipe = hf_videollm.load_pipeline(arguments.model, dtype=arguments.dtype)
    options = {"return_full_text": False, "max_new_tokens": 64}
    if arguments.video:
        print(pipe(arguments.video, text=arguments.question, **options)[0]["generated_text"].strip())
        return

    scene = make_scene(2_000_000, kind="motion")
    first, second, third = questions_for(scene)
    with tempfile.TemporaryDirectory() as folder:
        video = str(Path(folder) / "clip.mp4")
        write_scene_mp4(scene, video)

        answer = pipe(video, text=first.question, **options)[0]["generated_text"].strip()
        print(f"{first.question} {answer} (right: {first.answer})")

        # Options of the video processor choose the frames: here 4 frames of the first second.
        answer = pipe(video, text=second.question, start=0, end=1, num_frames=4, **options)[0]["generated_text"].strip()
        print(f"{second.question} {answer} (right: {second.answer})")

        # A conversation: messages in the format of transformers' chat templates.
        messages = [
            {"role": "user", "content": [{"type": "video", "path": video}, {"type": "text", "text": first.question}]},
            {"role": "assistant", "content": [{"type": "text", "text": first.answer}]},
            {"role": "user", "content": [{"type": "text", "text": third.question}]},
        ]
        answer = pipe(messages, **options)[0]["generated_text"].strip()
        print(f"{third.question} {answer} (right: {third.answer})")


if __name__ == "__main__":
    main()
