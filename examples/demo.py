"""Write a video, and ask the bundled model three questions about it: `make demo`.

The clip is an MP4 file (H.264 and AAC) from the synthetic generator, with a seed that was not used to train the bundled
checkpoint. The right answers are known, because the generator chose them.
"""

import os
from pathlib import Path

# Loading the small model needs no progress bar. transformers reads this variable when it is imported.
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

from hf_videollm import default_checkpoint, load_pipeline
from hf_videollm.synthetic.clips import SPLIT_SEEDS, make_scene, questions_for, write_scene_mp4

FOLDER = Path("demo")


def main() -> None:
    """Write the clip, ask, and print question, answer and expected answer."""
    scene = make_scene(SPLIT_SEEDS["test"][0], kind="motion")
    FOLDER.mkdir(exist_ok=True)
    video = FOLDER / "motion.mp4"
    write_scene_mp4(scene, video)
    print(f"Wrote {video} ({video.stat().st_size:,} bytes). Loading the bundled PLLaVA ...")

    pipe = load_pipeline(default_checkpoint(), device="cpu")
    by_kind = {item.kind: item for item in questions_for(scene)}
    for kind in ("colour", "shape", "direction"):
        item = by_kind[kind]
        result = pipe(str(video), text=item.question, return_full_text=False, max_new_tokens=8)
        print(f"question: {item.question}")
        print(f"answer:   {result[0]['generated_text'].strip()}")
        print(f"expected: {item.answer}")


if __name__ == "__main__":
    main()
