"""Make the small VideoLLaMA2-AV of the package, whose inputs are videos and sound, and measure what it answers.

    python tools/tiny_checkpoints/videollama2_av.py                 # an hour on one core, two are no faster
    python tools/tiny_checkpoints/videollama2_av.py --only evaluate # measure the shipped one again

Steps, each resumable: write clips, copy vision tower and language model of the small PLLaVA, train with TRL's
SFTTrainer, save, measure on held-out clips.
"""

from pathlib import Path
from typing import Any

from common import (
    ASSETS,
    Options,
    count_parameters,
    list_recipes,
    measurement,
    provenance,
    run_script,
    run_stages,
    saving,
)

import hf_videollm
from hf_videollm.data.records import VideoQARecord, read_jsonl, write_jsonl
from hf_videollm.models.modeling_videollama2_av import VideoLlama2AVForCausalLM
from hf_videollm.synthetic.check import accuracies, answer_questions, held_out_clips, one_answer
from hf_videollm.synthetic.clips import generate_dataset
from hf_videollm.synthetic.scene import QUESTION_KINDS, SOUND_QUESTION_KINDS
from hf_videollm.synthetic.tiny.parts import take_over_weights
from hf_videollm.synthetic.tiny.videollama2_av import build_tiny_videollama2_av
from hf_videollm.training.sft import without_picture

STAGES = ("videollama2_av/sound", "videollama2_av/videos")
# Kinds of questions that need the order of the frames. When the shape of an entry scene appears is told by the number
# of empty frames as well, so the order of sound and shape is none of them.
TIME_KINDS = ("direction", "order")

# Columns of the table.
MEASUREMENTS = ("accuracy", "silent_files", "not_heard", "sound_alone", "frames_shuffled", "one_answer")

NOTES = """# The small VideoLLaMA2-AV of this package

{parameters} parameters. It can answer questions about synthetic clips of coloured shapes and beeps only. It lets users
try sound offline, and tests show with it that the design learns to use sound.

Made by `python tools/tiny_checkpoints/videollama2_av.py` in two stages, recipes {stages} in
`hf_videollm/synthetic/recipes` (they contain steps, learning rates and seeds): sound alone first, then clips with
sound, both with TRL's SFTTrainer, without LoRA. Vision tower and language model start with the weights of
`pllava-tiny`, which was trained on clips of the same kind without sound; the tower is not trained further. Connector,
audio encoder, its projector and the words that are not in the vocabulary of `pllava-tiny` start from random weights,
seed 0. Training clips have the seeds 0 to {last_seed}: {clips[0]} with sound, {clips[1]} written without a sound track,
and the sound alone of {clips[2]}. Losses and learning rates of every logged step are in `training_log.jsonl`.

Measured on {questions} questions about clips of the split `{split}` (their seeds are not used in training), read from
MP4 files and answered by `generate`; an answer is right if it is exactly the expected one. Numbers, command and library
versions are in `accuracy.json`; the command was `{command}`.

- silent files: the same clips written without a sound track, which the processor replaces by silence;
- not heard: the files with sound, but with `use_audio_in_video=False`, so the model gets no audio tokens;
- sound alone: the sound of the files as `{{"type": "audio"}}`, without the picture (from the time of the beep alone,
  three quarters of the answers to `sound_order` can be guessed);
- frames shuffled: with sound, the sampled frames in random order;
- one answer: the accuracy of always giving the most frequent answer (for `order`, the shape that the question names
  first).

| question | with sound | silent files | not heard | sound alone | frames shuffled | one answer |
|---|---|---|---|---|---|---|
{rows}
"""


def training_seeds(num_videos: int) -> tuple[range, range, range]:
    """Seeds of the training clips: nine of 13 have picture and sound, three the picture alone, one the sound alone."""
    with_sound, with_picture = 9 * num_videos // 13, 12 * num_videos // 13
    return range(with_sound), range(with_sound, with_picture), range(with_picture, num_videos)


def training_records(work: Path, num_videos: int) -> list[VideoQARecord]:
    """Write the training clips and return the questions about them."""
    with_sound, silent, sound_only = training_seeds(num_videos)

    def questions(name: str, seeds: range, **options: Any) -> list[VideoQARecord]:
        return read_jsonl(generate_dataset(work / name, len(seeds), seed=seeds.start, **options))

    return [
        *questions("sound", with_sound, sound_questions=True, details=True, entries=True),
        *questions("silent", silent, with_audio=False, details=True),
        *(
            without_picture(record)
            for record in questions("sound_only", sound_only, sound_questions=True)
            if record.metadata["kind"] in SOUND_QUESTION_KINDS
        ),
    ]


def train(options: Options) -> None:
    """Write the clips, and train in two stages."""
    records = write_jsonl(training_records(options.work, options.num_videos), options.work / "records.jsonl")
    model, processor = build_tiny_videollama2_av(seed=0)
    take_over_weights(model, hf_videollm.default_checkpoint())
    print(f"{count_parameters(model)} parameters", flush=True)
    run_stages(STAGES, model, processor, records, options.work)


def evaluate(model: Any, processor: Any, work: Path, per_kind: int, split: str = "test") -> dict[str, Any]:
    """Measure with sound, without it in two ways, without the picture, and with the frames shuffled."""
    folder = work / f"held_out_{split}"
    clips = held_out_clips(folder, per_kind, split, sound=True)
    silent = held_out_clips(folder, per_kind, split, sound=True, with_audio=False)
    unheard = {"use_audio_in_video": False}
    sounding = [clip for clip in clips if clip.question.kind in SOUND_QUESTION_KINDS]
    timed = [clip for clip in clips if clip.question.kind in TIME_KINDS]
    return {
        "split": split,
        "questions": len(clips),
        "accuracy": accuracies(answer_questions(model, processor, clips)),
        "silent_files": accuracies(answer_questions(model, processor, silent)),
        "not_heard": accuracies(answer_questions(model, processor, clips, processor_kwargs=unheard)),
        "sound_alone": accuracies(answer_questions(model, processor, sounding, medium="audio")),
        "frames_shuffled": accuracies(answer_questions(model, processor, timed, shuffle_seed=0)),
        "one_answer": {kind: one_answer(kind, clips) for kind in QUESTION_KINDS},
        **provenance(),
    }


def describe(model: Any, result: dict[str, Any], num_videos: int) -> str:
    """Page that lies next to the checkpoint: what it is, how it was made, what it can do."""
    rows = []
    for kind in result["accuracy"]:
        shares = [result[name].get(kind) for name in MEASUREMENTS]
        cells = ["" if share is None else f"{share:.1%}" for share in shares]
        name = f"{kind} (sound)" if kind in SOUND_QUESTION_KINDS else kind
        rows.append(f"| {' | '.join([name, *cells])} |")
    return NOTES.format(
        parameters=count_parameters(model),
        stages=list_recipes(STAGES),
        rows="\n".join(rows),
        last_seed=num_videos - 1,
        clips=[f"{len(seeds):,}" for seeds in training_seeds(num_videos)],
        **{key: result[key] for key in ("questions", "split", "command")},
    )


if __name__ == "__main__":
    run_script(
        "Train and measure the small VideoLLaMA2-AV.",
        Options(Path("runs/av"), 13_000, ASSETS / "videollama2-av-tiny"),
        train,
        saving(VideoLlama2AVForCausalLM, build_tiny_videollama2_av, STAGES),
        measurement(evaluate, describe),
    )
