"""Ask many questions about one video, and read the video once.

    python examples/many_questions.py                       # a made-up clip and the bundled model
    python examples/many_questions.py my.mp4 "Who is there?" "What happens?" --model ./pllava-7b

Three ways give the same answers: nothing is shared; the video is encoded once (`mm_encoder_outputs`); or the language
model keeps the cache of the video, so that another question costs only its own words. This works for PLLaVA,
VideoLLaMA2 (without sound) and FTFV. IVA and LinVT process the video differently for each question.
"""

import argparse
import os
import tempfile
from typing import Any

import torch
from transformers import DynamicCache
from transformers.utils import logging

import hf_videollm
from hf_videollm.synthetic.clips import make_scene, questions_for, write_scene_mp4


def main() -> None:
    """Ask all questions in each way; print the answers, and how much was computed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", nargs="?", help="a video; a made-up clip if omitted")
    parser.add_argument("questions", nargs="*", default=["What happens in the video?"])
    parser.add_argument("--model", default=hf_videollm.default_checkpoint(), help="folder or Hub id")
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    pipe = hf_videollm.load_pipeline(arguments.model)
    with tempfile.TemporaryDirectory() as folder:
        video, questions = arguments.video, arguments.questions
        if video is None:
            scene, video = make_scene(2_000_000, kind="motion"), os.path.join(folder, "clip.mp4")
            write_scene_mp4(scene, video)
            questions = [item.question for item in questions_for(scene)]
            print("right answers:", *(item.answer for item in questions_for(scene)))
        prompts = [read(pipe, video, question) for question in questions]
    work = count_work(pipe.model)
    for way in (nothing_shared, encoded_once, kept_cache):
        work.update(frames=0, tokens=0)
        answers = [
            pipe.tokenizer.decode(tokens, skip_special_tokens=True).strip() for tokens in way(pipe.model, prompts)
        ]
        print(f"{way.__name__}: {' '.join(answers)}", end="; ")
        print(f"{work['frames']} frames in the vision tower, {work['tokens']} tokens in the language model")


def read(pipe: Any, video: str, question: str) -> dict[str, torch.Tensor]:
    """The inputs of the model: ids, mask, and the frames of the video."""
    messages = [{"role": "user", "content": [{"type": "video", "path": video}, {"type": "text", "text": question}]}]
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    return {**pipe.processor.apply_chat_template(messages, **options).to(pipe.model.device, pipe.model.dtype)}


def answer(model: Any, inputs: dict[str, torch.Tensor], **options: Any) -> torch.Tensor:
    """The tokens of the greedy answer."""
    return model.generate(**inputs, **options, do_sample=False, max_new_tokens=64)[0, inputs["input_ids"].shape[1] :]


def pick(prompt: dict[str, torch.Tensor], *names: str) -> dict[str, torch.Tensor]:
    """Some of the inputs."""
    return {name: prompt[name] for name in names if name in prompt}


def nothing_shared(model: Any, prompts: list[dict[str, torch.Tensor]]) -> list[torch.Tensor]:
    """The video is encoded again for every question."""
    return [answer(model, prompt) for prompt in prompts]


@torch.no_grad()
def encoded_once(model: Any, prompts: list[dict[str, torch.Tensor]]) -> list[torch.Tensor]:
    """The vision tower encodes the video once. The language model processes its tokens for every question."""
    features = model.get_video_features(**pick(prompts[0], "pixel_values_videos", "num_video_frames"))
    texts = [pick(prompt, "input_ids", "attention_mask") for prompt in prompts]
    return [answer(model, text, mm_encoder_outputs={"video": features}) for text in texts]


def kept_cache(model: Any, prompts: list[dict[str, torch.Tensor]]) -> list[torch.Tensor]:
    """Both process the video once. After each answer, the cache is cut back to the common beginning of all prompts."""
    ids = [prompt["input_ids"][0].tolist() for prompt in prompts]
    differs = (place for place, tokens in enumerate(zip(*ids, strict=False)) if len(set(tokens)) > 1)
    shared = next(differs, min(map(len, ids)) - 1)
    cache, answers = DynamicCache(), []
    for prompt in prompts:
        inputs = pick(prompt, "input_ids", "attention_mask") if answers else prompt  # the video comes with the first
        answers.append(answer(model, inputs, past_key_values=cache))
        cache.crop(shared - cache.get_seq_length())  # a negative number: that many positions are removed
    return answers


def count_work(model: Any) -> dict[str, int]:
    """Count the frames in the vision tower and the tokens in the language model from now on."""
    work = {"frames": 0, "tokens": 0}

    def count(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if "inputs_embeds" in kwargs:
            work["tokens"] += kwargs["inputs_embeds"].shape[1]
        else:
            work["frames"] += len(args[0] if args else kwargs["pixel_values"])

    for part in (model.model.vision_tower, model.get_decoder()):
        part.register_forward_pre_hook(count, with_kwargs=True)
    return work


if __name__ == "__main__":
    main()
