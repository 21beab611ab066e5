"""Three questions about a video that was made a moment ago: `make demo`.

The clip is a real MP4 (H.264 and AAC) from the synthetic generator, from a seed that the bundled checkpoint has never
seen; the answers are known because the generator drew them.
"""

import os
from pathlib import Path

# The bundled model is loaded in a moment; transformers' progress bars read this when it is imported.
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
