"""Compare the designs: the costs of a video at the sizes of the papers, and the answers of the bundled small models.

    python examples/compare_designs.py                                       # bundled models, a made-up clip
    python examples/compare_designs.py my.mp4 "What happens?" ./pllava-7b ./videollama2-7b-16f

The first table needs no weights. LinVT is not in it, because the operations of its image-LLM are known only when it
runs; `hf-videollm info --design linvt` counts its parameters.
"""

import argparse
import os
import tempfile

from transformers.utils import logging

import hf_videollm
from hf_videollm.costs.flops import count_flops
from hf_videollm.costs.info import describe_checkpoint
from hf_videollm.costs.presets import find_preset
from hf_videollm.synthetic.clips import make_scene, questions_for, write_scene_mp4

SIZES = ("pllava", "videollama2", "videollama2.1", "videollama2_av", "iva", "ftfv")
# Without `iva-tiny`, which was trained on long videos only (README, Long videos).
BUNDLED = ("pllava-tiny", "videollama2-av-tiny", "linvt-tiny", "ftfv-tiny")


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", nargs="?", help="a video; a made-up clip if omitted")
    parser.add_argument("question", nargs="?", default="What happens in the video?")
    parser.add_argument("models", nargs="*", default=BUNDLED, help="folders or Hub ids")
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    print(f"{'design':16}{'frames':>8}{'tokens':>8}{'TFLOPs':>8}{'cache, MB':>11}")
    for name in SIZES:
        preset = find_preset(name)
        cost = count_flops(preset.config(), lora_rank=preset.lora_rank)
        total, cache = cost.total.total / 1e12, cost.kv_cache_bytes / 1e6
        print(f"{name:16}{cost.num_frames:8}{cost.media_tokens:8,}{total:8.1f}{cache:11,.1f}")

    with tempfile.TemporaryDirectory() as folder:
        video, question, right = arguments.video, arguments.question, ""
        if video is None:
            scene, video = make_scene(2_000_000, kind="motion"), os.path.join(folder, "clip.mp4")
            write_scene_mp4(scene, video)
            question, right = questions_for(scene)[-1].question, f" (right: {questions_for(scene)[-1].answer})"
        print(f"\n{question}{right}\n{'model':24}{'parameters':>12}{'tokens':>8}  answer")
        for name in arguments.models:
            pipe = hf_videollm.load_pipeline(name)
            facts = describe_checkpoint(hf_videollm.known_models.find_model(name))
            answer = pipe(video, text=question, return_full_text=False)[0]["generated_text"].strip()
            print(f"{name:24}{facts.parameters['total']:12,}{facts.tokens_per_video:8,}  {answer}")


if __name__ == "__main__":
    main()
