"""Save small random checkpoints with the code of an old commit, and record the answers of that code.

`tests/fixtures/checkpoints_56fbe3b` was made with these commands, in a clone of this repository:

    git worktree add --detach /tmp/old 56fbe3b
    pip install --no-deps --target /tmp/transformers 'transformers==5.23.*'
    PYTHONPATH=/tmp/transformers python tools/old_checkpoints.py /tmp/old tests/fixtures/checkpoints_56fbe3b
    git worktree remove --force /tmp/old

The package and the tiny models of its tests come from the old commit; this file only uses them. It writes
`checkpoints.tar.xz`, with all folders as they were saved, and `answers.json`. Both are records, so a change of the
package is no reason to write them again.
"""

import contextlib
import io
import itertools
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

QUESTION = "What moves?"
NUM_NEW_TOKENS, NUM_DIGITS = 8, 4
# The smallest allowed difference between the logits of the best and the second best token. With a smaller one, rounding
# on another machine could change the token.
MIN_MARGIN = 0.02
# The smallest allowed number of different tokens in an answer. An answer that repeats one token would prove little.
MIN_KINDS = 4
# Weights are rounded to multiples of this number, so that they compress well.
GRID = 1 / 64
ARCHIVE, ANSWERS = "checkpoints.tar.xz", "answers.json"


def make_video(num_frames: int = 6, side: int = 40) -> np.ndarray:
    """A square that moves over a gradient: `(num_frames, side, side, 3)` uint8."""
    rows, columns = np.mgrid[:side, :side]
    frames = np.empty((num_frames, side, side, 3), np.uint8)
    for index in range(num_frames):
        frames[index] = np.stack([rows * 5, columns * 5, np.full_like(rows, 40 * index)], axis=-1)
        begin = 4 * index
        frames[index, begin : begin + 12, 10:22] = (250, 240, 10)
    return frames


def write_video(folder: Path) -> Path:
    """Write the video as a folder of PNG files, for functions that accept only paths."""
    folder.mkdir(parents=True)
    for index, frame in enumerate(make_video()):
        Image.fromarray(frame).save(folder / f"{index}.png")
    return folder


def make_sound(num_samples: int = 16000) -> np.ndarray:
    """A tone of one second whose pitch rises from 200 Hz: `(num_samples,)` float32."""
    seconds = np.arange(num_samples) / 16000
    return (0.4 * np.sin(2 * np.pi * (200 + 300 * seconds) * seconds)).astype(np.float32)


def make_inputs(processor: Any) -> Any:
    """The inputs for the question about the video, with sound if the design uses sound."""
    content: list[dict[str, Any]] = [{"type": "text", "text": QUESTION}]
    media: dict[str, Any] = {}
    if getattr(processor, "feature_extractor", None) is not None:
        media["audio"] = [make_sound()]
        content.insert(0, {"type": "audio", "audio": media["audio"][0]})
    if getattr(processor, "video_processor", None) is not None:
        media["videos"] = [make_video()]
        content.insert(0, {"type": "video"})
    else:
        media["images"] = [Image.fromarray(make_video()[0])]
        content.insert(0, {"type": "image"})
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    # LinVT needs the question separately, because the prompt does not mark it.
    asked = {"questions": [QUESTION]} if type(processor).__name__ == "LinVTProcessor" else {}
    return processor(text=[prompt], return_tensors="pt", **media, **asked)


def answer(model: Any, processor: Any, **options: Any) -> dict[str, Any]:
    """The ids of the prompt, the greedy tokens, and the logits of each token before logits processors."""
    inputs = make_inputs(processor)
    output = model.generate(
        **inputs,
        do_sample=False,
        max_new_tokens=NUM_NEW_TOKENS,
        return_dict_in_generate=True,
        output_logits=True,
        **options,
    )
    prompt = inputs["input_ids"][0].tolist()
    logits = [[round(value, NUM_DIGITS) for value in step[0].double().tolist()] for step in output.logits]
    return {"input_ids": prompt, "tokens": output.sequences[0].tolist()[len(prompt) :], "logits": logits}


# The models. The functions below import the code of the old commit, so the imports are inside the functions.


def on_grid(model: Any) -> Any:
    """Round the weights of the model, and change biases that start at 0, because a mix-up of zeros is not seen."""
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in [*model.parameters(), *filter(torch.is_floating_point, model.buffers())]:
            if value.ndim == 1 and not value.any():
                value.copy_(0.1 * torch.randn(value.shape, generator=generator))
            value.copy_((value / GRID).round() * GRID)
    return model


def write_lora(model: Any, folder: Path, rank: int = 2, alpha: float = 8.0) -> Path:
    """A PEFT adapter for the language model of a PLLaVA, in the two files that PEFT reads."""
    import torch
    from hf_videollm.models.lora_pllava import ADAPTER_WEIGHTS, LORA_TARGETS, PEFT_PREFIX
    from peft import LoraConfig
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(7)
    tensors = {}
    for name, module in model.named_modules():
        if "language_model" in name and name.endswith(("q_proj", "v_proj")):
            for part, shape in (("A", (rank, module.in_features)), ("B", (module.out_features, rank))):
                noise = 0.3 * torch.randn(shape, generator=generator)
                tensors[f"{PEFT_PREFIX}{name}.lora_{part}.weight"] = (noise / GRID).round() * GRID
    LoraConfig(r=rank, lora_alpha=alpha, target_modules=LORA_TARGETS, task_type="CAUSAL_LM").save_pretrained(folder)
    save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    return folder


def with_lora(scratch: Path, seed: int) -> Any:
    """A PLLaVA whose LoRA was trained with alpha 8 and is used with alpha 6."""
    from hf_videollm.models.lora_pllava import ADAPTER_CONFIG, ADAPTER_WEIGHTS
    from tiny_checkpoint import make_model

    model = on_grid(make_model(seed))
    folder = write_lora(model, scratch / "adapter")
    model.config.lora_training_alpha = 8.0
    model.load_lora(folder / ADAPTER_CONFIG, folder / ADAPTER_WEIGHTS, alpha=6.0)
    return model


def pllava_lora(scratch: Path, seed: int) -> tuple[Any, Any, dict[str, Any]]:
    """A LoRA that is stored separately and can be adjusted."""
    from tiny_checkpoint import make_processor

    return with_lora(scratch, seed), make_processor(), {}


def pllava_merged(scratch: Path, seed: int) -> tuple[Any, Any, dict[str, Any]]:
    """The same LoRA merged with alpha 4, in shards."""
    from tiny_checkpoint import make_processor

    model = with_lora(scratch, seed).merge_lora(alpha=4.0)
    model.config.lora_merged_alpha = 4.0
    return model, make_processor(), {"max_shard_size": "100KB"}


def pllava_gemma2(_: Path, seed: int) -> tuple[Any, Any, dict[str, Any]]:
    """With a language model that bounds its logits. The old code did not do this."""
    from factory import TEXT_TOWERS, randomise
    from tiny_checkpoint import CHARACTERS, SPECIAL, make_config, make_processor

    from hf_videollm import PllavaConfig, PllavaForConditionalGeneration

    text = {**TEXT_TOWERS["gemma2"], "vocab_size": len(SPECIAL) + len(CHARACTERS), "tie_word_embeddings": True}
    config = PllavaConfig(**{**make_config().to_dict(), "text_config": text, "tie_word_embeddings": True})
    model = PllavaForConditionalGeneration(config).eval()
    randomise(model, seed)
    model.generation_config.suppress_tokens = list(range(len(SPECIAL) + 2))
    return on_grid(model), make_processor(), {}


def videollama2(_: Path, seed: int) -> tuple[Any, Any, dict[str, Any]]:
    """A tower without class token, and a separate head although the language model's configuration says "tied"."""
    from factory import TEXT_TOWERS, VISION_TOWERS, randomise
    from tiny_checkpoint import CHARACTERS, SPECIAL, make_tokenizer
    from transformers import SiglipImageProcessor

    from hf_videollm import VideoLlama2Config, VideoLlama2ForCausalLM, VideoLlama2Processor, VideoLlama2VideoProcessor
    from hf_videollm.models.processing_videollama2 import processor_options

    vocab_size = len(SPECIAL) + len(CHARACTERS)
    config = VideoLlama2Config(
        vision_config=VISION_TOWERS["siglip_vision_model"],
        text_config={**TEXT_TOWERS["qwen2"], "vocab_size": vocab_size, "tie_word_embeddings": True},
        vision_feature_select_strategy="full",
        connector_type="stc_connector_v35",
        image_token_id=SPECIAL.index("<image>"),
        video_token_id=SPECIAL.index("<video>"),
        num_frames=4,
    )
    model = VideoLlama2ForCausalLM(config).eval()
    randomise(model, seed)
    model.generation_config.suppress_tokens = list(range(len(SPECIAL) + 2))
    model.generation_config.pad_token_id = 0
    size = {"height": 16, "width": 16}
    processor = VideoLlama2Processor(
        image_processor=SiglipImageProcessor(size=size),
        tokenizer=make_tokenizer(),
        video_processor=VideoLlama2VideoProcessor(size=size, do_center_crop=False, num_frames=4),
        **processor_options(config),
    )
    return on_grid(model), processor, {}


def videollama2_av(_: Path, seed: int) -> tuple[Any, Any, dict[str, Any]]:
    """A design with audio."""
    import torch
    from tiny_av_checkpoint import make_av_model, make_av_processor

    model = make_av_model(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "grep_linear" in name or "relative_attention_bias" in name:
                # The initial values of the attention gates would hardly influence the answer.
                value.mul_(8)
    return on_grid(model), make_av_processor(), {}


def ftfv(_: Path, seed: int) -> tuple[Any, Any, dict[str, Any]]:
    """Qwen-VL's tower, and a tied head although the language model's configuration says "not tied"."""
    from factory import randomise
    from tiny_ftfv_checkpoint import make_model, make_processor

    model = make_model(tie_word_embeddings=True)
    randomise(model, seed)
    return on_grid(model), make_processor(), {}


def iva(_: Path, seed: int) -> tuple[Any, Any, dict[str, Any]]:
    """With query tokens, adapter and connector. In the old code, the weights of its pooling were an `nn.Linear`."""
    from factory import randomise
    from tiny_iva_checkpoint import make_model, make_processor

    model = make_model()
    randomise(model, seed)
    return on_grid(model), make_processor(), {}


def xgen_mm(_: Path, seed: int) -> tuple[Any, Any, dict[str, Any]]:
    """An image-LLM of the package, whose configuration did not say whether its head is tied."""
    import test_xgen_mm as xgen
    from factory import randomise

    text = {**xgen.CONFIG["text_config"], "tie_word_embeddings": True}
    model = xgen.make_model(text_config=text)
    randomise(model, seed)
    model.generation_config.suppress_tokens = [*range(9), xgen.IMAGE]
    model.generation_config.pad_token_id = 0
    return on_grid(model), xgen.make_processor(), {}


def linvt(scratch: Path, seed: int, image_llm: str = "llava", **options: Any) -> tuple[Any, Any, dict[str, Any]]:
    """LinVT with its image-LLM, a LLaVA of transformers."""
    import torch
    from tiny_linvt import MODULE, NUM_FRAMES

    from hf_videollm import LinVTForCausalLM, LinVTProcessor

    torch.manual_seed(seed)
    source, facts = str(scratch.parent / image_llm), {"linvt_config": MODULE, "num_frames": NUM_FRAMES}
    model = LinVTForCausalLM.from_image_llm(source, **facts)
    processor = LinVTProcessor.from_image_llm(source, **facts)
    return on_grid(model), processor, options


def linvt_adapter(scratch: Path, seed: int) -> tuple[Any, Any, dict[str, Any]]:
    """LinVT alone, for the LLaVA beside it."""
    return linvt(scratch, seed, adapter_only=True)


def linvt_xgen_mm(scratch: Path, seed: int) -> tuple[Any, Any, dict[str, Any]]:
    """LinVT with the XGen-MM beside it."""
    return linvt(scratch, seed, "xgen_mm")


# The order matters: some LinVTs use an image-LLM that was saved before them.
MAKERS: dict[str, Callable[[Path, int], tuple[Any, Any, dict[str, Any]]]] = {
    maker.__name__: maker
    for maker in (
        pllava_lora, pllava_merged, pllava_gemma2, videollama2, videollama2_av, ftfv, iva, xgen_mm,
        linvt, linvt_adapter, linvt_xgen_mm,
    )
}  # fmt: skip


# The records.


def load(folder: Path) -> tuple[Any, Any]:
    """Load model and processor of a folder with the installed package."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from hf_videollm import LinVTForCausalLM

    if folder.name == "linvt_adapter":
        return LinVTForCausalLM.from_adapter(folder), AutoProcessor.from_pretrained(folder)
    return AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)


def ask_on_command_line(folder: Path, video: Path) -> str:
    """Standard output of `hf-videollm ask`."""
    from hf_videollm.cli import main

    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        main(["ask", str(video), QUESTION, "--model", str(folder), "--max-new-tokens", str(NUM_NEW_TOKENS)])
    return output.getvalue().strip()


def record(folder: Path, video: Path) -> dict[str, Any] | None:
    """The answers of the old code; `None` if another machine could round to other tokens, or if they prove little."""
    model, processor = load(folder)
    facts = answer(model, processor)
    assert answer(model, processor, use_cache=False)["tokens"] == facts["tokens"], folder.name
    scores = np.delete(np.array(facts["logits"]), model.generation_config.suppress_tokens, axis=1)
    best = np.sort(scores, axis=1)
    margin = float((best[:, -1] - best[:, -2]).min())
    print(f"{folder.name}: {facts['tokens']}, the best by {margin:.3f}")
    if margin < MIN_MARGIN or len(set(facts["tokens"])) < MIN_KINDS:
        return None
    if folder.name not in ("xgen_mm", "linvt_adapter"):
        facts["command_line"] = ask_on_command_line(folder, video)
        assert facts["command_line"], folder.name
    return facts


def main(worktree: Path, destination: Path) -> None:
    """Save the checkpoints, record the answers, and pack everything."""
    sys.path[:0] = [str(worktree / place) for place in ("src", "tests", "tests/models")]
    import transformers
    from tiny_linvt import make_llava, make_llava_processor

    from hf_videollm import __file__ as package
    from hf_videollm import save_checkpoint

    assert Path(package).is_relative_to(worktree), f"{package} is not the old code"
    commit = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=worktree, text=True).strip()
    answers: dict[str, Any] = {"commit": commit, "transformers": transformers.__version__, "checkpoints": {}}
    destination.mkdir(parents=True, exist_ok=True)
    # The adapter stores the folder of its image-LLM.
    root = Path("/tmp/old_checkpoints")
    shutil.rmtree(root, ignore_errors=True)
    with tempfile.TemporaryDirectory() as place:
        video = write_video(Path(place, "video"))
        on_grid(make_llava()).save_pretrained(root / "llava")
        make_llava_processor().save_pretrained(root / "llava")
        for name, maker in MAKERS.items():
            for seed in itertools.count():
                (root / "scratch").mkdir()
                model, processor, options = maker(root / "scratch", seed)
                save_checkpoint(model, processor, root / name, overwrite=True, **options)
                shutil.rmtree(root / "scratch")
                if (facts := record(root / name, video)) is not None:
                    break
            answers["checkpoints"][name] = {"seed": seed, **facts}
    with tarfile.open(destination / ARCHIVE, "w:xz", preset=9) as archive:
        # Files are sorted by name, because every folder has a copy of the code. Equal files next to each other compress
        # well.
        for file in sorted(root.rglob("*"), key=lambda file: (file.name, file)):
            if file.is_file():
                archive.add(file, file.relative_to(root))
    (destination / ANSWERS).write_text(json.dumps(answers) + "\n", encoding="utf-8")
    shutil.rmtree(root)
    print(f"{(destination / ARCHIVE).stat().st_size:,} and {(destination / ANSWERS).stat().st_size:,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
