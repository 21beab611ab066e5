"""Let an image-LLM answer questions about videos: add LinVT to it.

    python examples/linvt_on_your_image_llm.py                                        # bundled small models
    python examples/linvt_on_your_image_llm.py --image-llm llava-hf/llava-interleave-qwen-0.5b-hf --output my-linvt

The image-LLM does not change: its logits for images stay the same. LinVT is new, so answers about videos are
meaningless until it is trained (docs/how_to/train.md). Without `--image-llm`, this example uses the small LLaVA inside
the bundled `linvt-tiny`, and at the end also the LinVT that was trained for it, to show the effect of training.
"""

import argparse
import tempfile
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline
from transformers.utils import logging

import hf_videollm
from hf_videollm import LinVTForCausalLM, LinVTProcessor
from hf_videollm.synthetic.clips import make_scene, questions_for, write_scene_mp4
from hf_videollm.synthetic.tiny.linvt import bare_image_llm


def main() -> None:
    """Make a LinVT, compare the logits for an image, and save LinVT alone; then ask it and a trained LinVT."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image-llm", help="folder or Hub id of an image-LLM")
    parser.add_argument("--output", help="folder for the new LinVT without the image-LLM; a temporary one if omitted")
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        name, output = arguments.image_llm, arguments.output or f"{folder}/new-linvt"
        options: dict[str, Any] = {}
        if name is None:
            bundled = hf_videollm.default_checkpoint("linvt-tiny")
            trained = LinVTForCausalLM.from_pretrained(bundled)
            name = f"{folder}/llava"
            bare_image_llm(trained).save_pretrained(name)
            AutoProcessor.from_pretrained(bundled).image_llm_processor.save_pretrained(name)
            options = {"linvt_config": trained.config.linvt_config, "num_frames": 8}  # small; default: the paper's

        model = LinVTForCausalLM.from_image_llm(name, **options)
        processor = LinVTProcessor.from_image_llm(name, **options)
        model.save_pretrained(output, adapter_only=True)
        size = sum(parameter.numel() for parameter in model.model.linvt.parameters())
        print(f"LinVT has {size:,} parameters, the whole model {model.num_parameters():,}")
        print(f"logits on an image are those of the image-LLM: {same_logits(model, processor, name)}")
        if arguments.image_llm:
            return

        trained.config.backbone_name = name
        trained.save_pretrained(f"{folder}/trained-linvt", adapter_only=True)
        scene, video = make_scene(2_000_000, kind="motion"), f"{folder}/clip.mp4"
        write_scene_mp4(scene, video)
        question = questions_for(scene)[-1]
        for adapter in (output, f"{folder}/trained-linvt"):
            model = LinVTForCausalLM.from_adapter(adapter)
            pipe = pipeline("video-text-to-text", model=model, processor=processor, tokenizer=processor.tokenizer)
            answer = pipe(video, text=question.question, return_full_text=False)[0]["generated_text"].strip()
            print(f"{adapter.rsplit('/', 1)[1]}: {question.question} {answer} (right: {question.answer})")


@torch.no_grad()
def same_logits(model: Any, processor: Any, image_llm: str) -> bool:
    """Whether the logits for a prompt with an image are bitwise equal with and without LinVT."""
    content = [{"type": "image", "image": Image.new("RGB", (64, 64), "red")}, {"type": "text", "text": "What is it?"}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=True, return_dict=True, return_tensors="pt"
    )
    alone = AutoModelForImageTextToText.from_pretrained(image_llm)
    expected = alone(**{key: value for key, value in inputs.items() if key != "mm_token_type_ids"}).logits
    return torch.equal(model(**inputs).logits, expected)


if __name__ == "__main__":
    main()
