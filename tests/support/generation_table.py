"""Every option of transformers' `generate`, tried on every design: the table of docs/generation.md.

test_generation_options.py proves each cell, generation_page.py makes the page.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from generation_by_hand import STEPS, ByHand, Processor
from transformers import CompileConfig, GenerationConfig, WatermarkingConfig
from transformers.generation import logits_process as library

DESIGNS = {
    "pllava": "PLLaVA",
    "videollama2": "VideoLLaMA2",
    "videollama2_av": "VideoLLaMA2-AV",
    "ftfv": "FTFV",
    "iva": "IVA",
    "linvt": "LinVT",
}
ALL = frozenset(DESIGNS)
Expected = Callable[[ByHand], list[list[int]]]


def plain(by_hand: ByHand) -> list[list[int]]:
    """Greedy, without any option."""
    return by_hand.write()


def processed(*makers: Callable[[ByHand, int], Processor], **options: Any) -> Expected:
    """Scores changed by processors, in this order."""
    return lambda by_hand: by_hand.write(lambda own, row: [maker(own, row) for maker in makers], **options)


def of_library(name: str, *args: Any, **kwargs: Any) -> Callable[[ByHand, int], Processor]:
    """A processor of transformers, new for every row."""
    return lambda by_hand, row: getattr(library, name)(*args, **kwargs)


def sampled(name: str, *args: Any, **kwargs: Any) -> Expected:
    return processed(of_library(name, *args, **kwargs), sample=True)


def third_token(by_hand: ByHand) -> int:
    """Of the first prompt's answer."""
    return plain(by_hand)[0][2]


def second_best(by_hand: ByHand, row: int) -> Processor:
    """Never the best token."""

    def drop(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores.scatter(1, scores.argmax(-1, keepdim=True), float("-inf"))

    return drop


def even_only(by_hand: ByHand, row: int) -> Processor:
    return lambda ids, scores: scores.masked_fill(torch.arange(scores.shape[1]) % 2 == 1, float("-inf"))


NEGATIVE = [[9, 4, 7], [5, 8, 6]]
GUIDANCE = 1.5


def guided(by_hand: ByHand, row: int) -> Processor:
    """Away from what is written behind a prompt without media."""
    start = by_hand.ids(row).shape[1]

    def guide(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        with_media = scores.log_softmax(-1)
        without = by_hand.text_scores(torch.cat([torch.tensor([NEGATIVE[row]]), ids[:, start:]], 1)).log_softmax(-1)
        return GUIDANCE * (with_media - without) + without

    return guide


def guided_by_last(by_hand: ByHand, row: int) -> Processor:
    """The prompt without media is the last token alone."""
    start = by_hand.ids(row).shape[1]

    def guide(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        without = by_hand.text_scores(ids[:, start - 1 :]).log_softmax(-1)
        return GUIDANCE * (scores.log_softmax(-1) - without) + without

    return guide


def encoder_penalty(by_hand: ByHand, row: int) -> Processor:
    return library.EncoderRepetitionPenaltyLogitsProcessor(1.5, encoder_input_ids=by_hand.ids(row))


def encoder_ngrams(by_hand: ByHand, row: int) -> Processor:
    return library.EncoderNoRepeatNGramLogitsProcessor(1, encoder_input_ids=by_hand.ids(row))


def until_third(by_hand: ByHand) -> list[list[int]]:
    return by_hand.write(eos=third_token(by_hand))


def greedy_loop(
    model: Any, input_ids: torch.Tensor, generation_config: Any = None, **model_kwargs: Any
) -> torch.Tensor:
    """A loop of one's own, the smallest: the second best token first, then always the best."""
    own = {name: value for name, value in model_kwargs.items() if name not in LOOP_ARGUMENTS}
    for number in range(STEPS):
        inputs = model.prepare_inputs_for_generation(
            input_ids, next_sequence_length=None if number == 0 else 1, is_first_iteration=number == 0, **own
        )
        outputs = model(**inputs, return_dict=True)
        scores = outputs.logits[:, -1].clone()
        for processor in model_kwargs["logits_processor"]:
            scores = processor(input_ids, scores)
        token = scores.topk(2).indices[:, 1:] if number == 0 else scores.argmax(-1, keepdim=True)
        own = model._update_model_kwargs_for_generation(outputs, own)
        input_ids = torch.cat([input_ids, token], 1)
    return input_ids


LOOP_ARGUMENTS = ("logits_processor", "stopping_criteria", "synced_gpus", "streamer")


def looped(by_hand: ByHand) -> list[list[int]]:
    """What `greedy_loop` writes."""
    length = [by_hand.ids(row).shape[1] for row in range(len(by_hand.rows))]

    def first_is_second(own: ByHand, row: int) -> Processor:
        drop = second_best(own, row)
        return lambda ids, scores: drop(ids, scores) if ids.shape[1] == length[row] else scores

    return by_hand.write(lambda own, row: [first_is_second(own, row)])


@dataclass(frozen=True)
class Option:
    """A row of the table.

    Args:
        name: of the argument.
        tried: the arguments of the call; a function of the model where they depend on it.
        expected: the tokens.
        shown: how the call is written on the page, where `tried` does not say it.
        refused: designs that refuse it.
        text: what the refusal says, a part of it.
        alone: with one prompt, as transformers asks for in assisted decoding.
        echo: the prompt ends as the text before its placeholders does, and the model may write placeholders.
        note: for the page.
    """

    name: str
    tried: Any = field(default_factory=dict)
    expected: Expected = plain
    shown: str | None = None
    refused: frozenset[str] = frozenset()
    text: str = ""
    alone: bool = False
    echo: bool = False
    note: str = ""

    def arguments(self, by_hand: ByHand) -> dict[str, Any]:
        """Of the call."""
        made: dict[str, Any] = self.tried(by_hand) if callable(self.tried) else dict(self.tried)
        return made

    @property
    def call(self) -> str:
        if self.shown is not None:
            return self.shown
        return ", ".join(f"{name}={value!r}" for name, value in self.tried.items())


def sampling(**options: Any) -> dict[str, Any]:
    return {"do_sample": True, "top_k": 0, **options}


def refusal(name: str, value: Any, text: str, refused: frozenset[str] = ALL, shown: str | None = None) -> Option:
    return Option(name, {name: value}, refused=refused, text=text, shown=shown)


BASE = ALL - {"iva", "linvt"}
LINVT, IVA = frozenset({"linvt"}), frozenset({"iva"})
STATIC = {"cache_implementation": "static", "disable_compile": True}
GUESSED = {
    "refused": LINVT,
    "text": "LinVT generates from embeddings, with which assisted decoding",
    "alone": True,
    "echo": True,
}
NO_MEDIA_COPIED = "never guesses placeholders; the tested prompt ends with the words that stand before its videos"
ASSISTED = {"refused": IVA | LINVT, "text": "assist", "alone": True}
MOVED = "transformers itself no longer implements"


def with_assistant(**options: Any) -> Callable[[ByHand], dict[str, Any]]:
    """Another model of the same design, which guesses badly."""
    return lambda by_hand: {"assistant_model": by_hand.case.make_model(seed=5), **options}


LENGTH = [
    Option("max_new_tokens", {"max_new_tokens": 3}, lambda by_hand: by_hand.write(steps=3)),
    Option(
        "max_length",
        lambda by_hand: {"max_length": by_hand.batch["input_ids"].shape[1] + STEPS, "max_new_tokens": None},
        shown="max_length=prompt + 4",
        note="the placeholders of media count",
    ),
    Option(
        "min_new_tokens",
        lambda by_hand: {"min_new_tokens": STEPS, "eos_token_id": third_token(by_hand)},
        lambda by_hand: by_hand.write(
            lambda own, row: [
                library.MinNewTokensLengthLogitsProcessor(own.ids(row).shape[1], STEPS, third_token(own), "cpu")
            ]
        ),
        shown="min_new_tokens=4",
    ),
    Option(
        "min_length",
        lambda by_hand: {
            "min_length": by_hand.batch["input_ids"].shape[1] + STEPS,
            "eos_token_id": third_token(by_hand),
        },
        lambda by_hand: by_hand.write(
            lambda own, row: [
                library.MinNewTokensLengthLogitsProcessor(own.ids(row).shape[1], STEPS, third_token(own), "cpu")
            ]
        ),
        shown="min_length=prompt + 4",
    ),
    Option("max_time", {"max_time": 1e6}),
    Option(
        "stop_strings",
        lambda by_hand: {"stop_strings": [letter_of(third_token(by_hand))], "tokenizer": word_tokenizer()},
        until_third,
        shown="stop_strings=[...], tokenizer=...",
        alone=True,
        note="in a batch, a row that has stopped continues until all have stopped, as always in transformers",
    ),
    Option(
        "eos_token_id",
        lambda by_hand: {"eos_token_id": third_token(by_hand)},
        until_third,
        shown="eos_token_id=the third token",
    ),
    Option(
        "pad_token_id",
        lambda by_hand: {"eos_token_id": third_token(by_hand), "pad_token_id": 3},
        lambda by_hand: [
            [3 if third_token(by_hand) in tokens[:place] else token for place, token in enumerate(tokens)]
            for tokens in until_third(by_hand)
        ],
        shown="pad_token_id=3",
    ),
    Option("bos_token_id", {"bos_token_id": 1}, note="has no effect, because there is a prompt"),
    Option("early_stopping", {"num_beams": 3, "early_stopping": True}, lambda by_hand: by_hand.search(3)),
]

STRATEGY = [
    Option("do_sample", sampling(), lambda by_hand: by_hand.write(sample=True), note="compared with the same seed"),
    Option("num_beams", {"num_beams": 3}, lambda by_hand: by_hand.search(3)),
    Option("length_penalty", {"num_beams": 3, "length_penalty": 2.0}, lambda by_hand: by_hand.search(3)),
    Option(
        "num_return_sequences",
        {"num_beams": 3, "num_return_sequences": 2},
        lambda by_hand: by_hand.search(3, num_returned=2),
    ),
    Option(
        "num_return_sequences",
        sampling(num_return_sequences=2),
        lambda by_hand: by_hand.write(sample=True, rows=[0, 0, 1, 1]),
    ),
    Option(
        "custom_generate",
        {"custom_generate": greedy_loop},
        looped,
        shown="custom_generate=a function",
        note="also takes a folder, with trust_remote_code",
    ),
    Option("trust_remote_code", {"trust_remote_code": False}, note="True runs the code of a custom_generate folder"),
    refusal("penalty_alpha", 0.6, MOVED),
    refusal("dola_layers", "low", MOVED),
    refusal("num_beam_groups", 2, MOVED),
    refusal("diversity_penalty", 1.0, MOVED),
    refusal("constraints", [None], MOVED),
    refusal("force_words_ids", [[5]], MOVED),
    refusal("low_memory", True, MOVED),
]

CACHES = [
    Option("use_cache", {"use_cache": False}),
    Option("cache_implementation", {"cache_implementation": "dynamic"}),
    Option("cache_implementation", STATIC),
    Option("max_cache_len", {**STATIC, "max_cache_len": 200}),
    refusal("cache_implementation", "offloaded", "use 'dynamic'"),
    refusal("cache_implementation", "offloaded_static", "use 'static'"),
    refusal("cache_implementation", "paged", "continuous batching, which takes only token ids"),
    refusal("continuous_batching_config", {"block_size": 4}, "continuous batching, which takes only token ids"),
    Option("cache_config", {"cache_config": None}, note="used only by quantized caches, see below"),
    Option(
        "prefill_chunk_size",
        {"prefill_chunk_size": 4},
        refused=IVA | LINVT,
        text="prefill_chunk_size",
        note="the vectors of the media are put in before the prompt is cut into chunks",
    ),
    Option("prefill_chunk_size", {"prefill_chunk_size": 4, **STATIC}, refused=IVA | LINVT, text="prefill_chunk_size"),
    Option(
        "compile_config",
        {"cache_implementation": "static", "compile_config": CompileConfig(backend="eager", fullgraph=True)},
        shown="cache_implementation='static', compile_config=CompileConfig(fullgraph=True, ...)",
        note="transformers compiles only on accelerators; torch.compile of model.forward works everywhere",
    ),
    Option("disable_compile", {"disable_compile": True}),
]

LOGITS = [
    Option("temperature", sampling(temperature=0.7), sampled("TemperatureLogitsWarper", 0.7)),
    Option("top_k", sampling(top_k=3), sampled("TopKLogitsWarper", 3)),
    Option("top_p", sampling(top_p=0.6), sampled("TopPLogitsWarper", 0.6)),
    Option("min_p", sampling(min_p=0.3), sampled("MinPLogitsWarper", 0.3)),
    Option("top_h", sampling(top_h=0.4), sampled("TopHLogitsWarper", 0.4)),
    Option("typical_p", sampling(typical_p=0.5), sampled("TypicalLogitsWarper", 0.5)),
    Option("epsilon_cutoff", sampling(epsilon_cutoff=0.05), sampled("EpsilonLogitsWarper", 0.05)),
    Option(
        "eta_cutoff",
        sampling(eta_cutoff=0.05),
        lambda by_hand: by_hand.write(lambda own, row: [library.EtaLogitsWarper(0.05, device="cpu")], sample=True),
    ),
    Option(
        "repetition_penalty",
        {"repetition_penalty": 1.8},
        processed(of_library("RepetitionPenaltyLogitsProcessor", 1.8)),
        note="tokens of the prompt count, placeholders included",
    ),
    Option(
        "encoder_repetition_penalty",
        {"encoder_repetition_penalty": 1.5},
        processed(encoder_penalty),
        refused=LINVT,
        text="encoder_repetition_penalty would be ignored: use repetition_penalty",
    ),
    Option(
        "no_repeat_ngram_size", {"no_repeat_ngram_size": 1}, processed(of_library("NoRepeatNGramLogitsProcessor", 1))
    ),
    Option(
        "encoder_no_repeat_ngram_size",
        {"encoder_no_repeat_ngram_size": 1},
        processed(encoder_ngrams),
        refused=LINVT,
        text="encoder_no_repeat_ngram_size would be ignored: use no_repeat_ngram_size",
    ),
    Option(
        "bad_words_ids",
        lambda by_hand: {"bad_words_ids": [[third_token(by_hand)]]},
        lambda by_hand: by_hand.write(
            lambda own, row: [library.NoBadWordsLogitsProcessor([[third_token(own)]], eos_token_id=None)]
        ),
        shown="bad_words_ids=[[the third token]]",
    ),
    Option(
        "suppress_tokens",
        lambda by_hand: {"suppress_tokens": [third_token(by_hand), *by_hand.unwritten]},
        lambda by_hand: by_hand.write(lambda own, row: [library.SuppressTokensLogitsProcessor([third_token(own)])]),
        shown="suppress_tokens=[the third token]",
        note="IVA also suppresses its placeholders",
    ),
    Option(
        "begin_suppress_tokens",
        lambda by_hand: {"begin_suppress_tokens": [plain(by_hand)[0][0]]},
        lambda by_hand: by_hand.write(
            lambda own, row: [library.SuppressTokensAtBeginLogitsProcessor([plain(own)[0][0]], own.ids(row).shape[1])]
        ),
        shown="begin_suppress_tokens=[the first token]",
    ),
    Option(
        "sequence_bias",
        {"sequence_bias": {(7,): 8.0}},
        processed(of_library("SequenceBiasLogitsProcessor", {(7,): 8.0})),
    ),
    Option(
        "exponential_decay_length_penalty",
        lambda by_hand: {"exponential_decay_length_penalty": (1, 1.5), "eos_token_id": 7},
        lambda by_hand: by_hand.write(
            lambda own, row: [library.ExponentialDecayLengthPenalty((1, 1.5), 7, own.ids(row).shape[1])], eos=7
        ),
        shown="exponential_decay_length_penalty=(1, 1.5)",
    ),
    Option(
        "forced_eos_token_id",
        {"forced_eos_token_id": 7},
        lambda by_hand: [[*tokens[:-1], 7] for tokens in plain(by_hand)],
    ),
    Option("renormalize_logits", {"renormalize_logits": True}),
    Option("remove_invalid_values", {"remove_invalid_values": True}),
    Option(
        "watermarking_config",
        {"watermarking_config": WatermarkingConfig(bias=2.0)},
        processed(of_library("WatermarkLogitsProcessor", 120, "cpu", bias=2.0)),
        shown="watermarking_config=WatermarkingConfig(bias=2.0)",
    ),
    Option(
        "guidance_scale",
        {"guidance_scale": GUIDANCE},
        processed(guided_by_last),
        refused=IVA,
        text="pass negative_prompt_ids",
        note="the unconditional scores come from the last token of the prompt alone, as always in transformers",
    ),
    Option(
        "negative_prompt_ids",
        {"guidance_scale": GUIDANCE, "negative_prompt_ids": torch.tensor(NEGATIVE)},
        processed(guided),
        shown="guidance_scale=1.5, negative_prompt_ids=...",
    ),
    Option(
        "negative_prompt_attention_mask",
        {
            "guidance_scale": GUIDANCE,
            "negative_prompt_ids": torch.cat([torch.zeros(2, 1, dtype=torch.long), torch.tensor(NEGATIVE)], 1),
            "negative_prompt_attention_mask": torch.tensor([[0, 1, 1, 1]] * 2),
        },
        processed(guided),
        shown="guidance_scale=1.5, negative_prompt_ids=..., negative_prompt_attention_mask=...",
        refused=LINVT,
        text="negative_prompt_attention_mask",
    ),
    Option(
        "logits_processor",
        {"logits_processor": [second_best(None, 0)]},  # type: ignore[arg-type]
        processed(second_best),
        shown="logits_processor=[...]",
    ),
    Option(
        "prefix_allowed_tokens_fn",
        {"prefix_allowed_tokens_fn": lambda row, ids: list(range(0, 120, 2))},
        processed(even_only),
        shown="prefix_allowed_tokens_fn=a function",
    ),
    refusal("token_healing", True, "which loses videos and images"),
    refusal("forced_bos_token_id", 7, "put the token at the end of the prompt"),
    refusal("decoder_start_token_id", 7, "put the token at the end of the prompt"),
]

GUESSES = [
    Option("prompt_lookup_num_tokens", {"prompt_lookup_num_tokens": 3}, note=NO_MEDIA_COPIED, **GUESSED),
    Option(
        "prompt_lookup_num_tokens",
        {"prompt_lookup_num_tokens": 3, "cache_implementation": "static", "disable_compile": True},
        **GUESSED,
    ),
    Option("max_matching_ngram_size", {"prompt_lookup_num_tokens": 3, "max_matching_ngram_size": 1}, **GUESSED),
    Option("assistant_model", with_assistant(), shown="assistant_model=one of the design", **ASSISTED),
    Option("num_assistant_tokens", with_assistant(num_assistant_tokens=2), shown="num_assistant_tokens=2", **ASSISTED),
    Option(
        "num_assistant_tokens_schedule",
        with_assistant(num_assistant_tokens_schedule="constant"),
        shown="num_assistant_tokens_schedule='constant'",
        **ASSISTED,
    ),
    Option(
        "assistant_confidence_threshold",
        with_assistant(assistant_confidence_threshold=0.9),
        shown="assistant_confidence_threshold=0.9",
        **ASSISTED,
    ),
    refusal("assistant_ensemble_weight", 0.5, "computed without the videos"),
    refusal("use_mtp", True, "use_mtp"),
    refusal("assistant_early_exit", 1, "assistant_early_exit"),
    refusal("speculation_type", "dflash", "use assistant_model alone"),
    refusal("assistant_tokenizer", object(), "which loses videos and images", shown="assistant_tokenizer=..."),
    refusal("assistant_lookbehind", 4, "belongs to assistant_tokenizer"),
    refusal("target_lookbehind", 4, "belongs to assistant_tokenizer"),
    refusal("is_assistant", True, "set by transformers"),
]

OUTPUTS = [
    Option("return_dict_in_generate", {"return_dict_in_generate": True}),
    *(
        Option(f"output_{name}", {"return_dict_in_generate": True, f"output_{name}": True})
        for name in ("scores", "logits", "hidden_states")
    ),
    Option(
        "output_attentions",
        {"return_dict_in_generate": True, "output_attentions": True},
        note="the model must be loaded with attn_implementation='eager'",
    ),
]

CALL = [
    Option("inputs", lambda by_hand: {"inputs": by_hand.batch["input_ids"]}, shown="inputs=the ids"),
    Option(
        "generation_config",
        lambda by_hand: {"generation_config": GenerationConfig(max_new_tokens=STEPS, do_sample=False, pad_token_id=0)},
        shown="generation_config=GenerationConfig(...)",
    ),
    Option(
        "stopping_criteria",
        lambda by_hand: {"stopping_criteria": [StopsAt(3)]},
        lambda by_hand: by_hand.write(steps=3),
        shown="stopping_criteria=[...]",
    ),
    Option("streamer", lambda by_hand: {"streamer": Listener()}, shown="streamer=...", alone=True),
    Option("synced_gpus", {"synced_gpus": False}, note="True needs several processes; it was not tested"),
]


class StopsAt:
    """After so many calls."""

    def __init__(self, number: int) -> None:
        self.number, self.calls = number, 0

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        self.calls += 1
        return torch.full((len(input_ids),), self.calls >= self.number)


class Listener:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.heard: list[int] = []
        self.has_ended = False

    def put(self, value: torch.Tensor) -> None:
        self.heard += value.flatten().tolist()

    def end(self) -> None:
        self.has_ended = True


def word_tokenizer() -> Any:
    """One letter for each id."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({letter_of(number): number for number in range(120)}, unk_token=letter_of(0)))
    words.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    words.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token=letter_of(0), pad_token=letter_of(0))


def letter_of(token: int) -> str:
    return chr(33 + token)


PARTS = {
    "Length": LENGTH,
    "Strategy": STRATEGY,
    "Caches and chunks": CACHES,
    "Scores": LOGITS,
    "Assisted decoding": GUESSES,
    "Outputs": OUTPUTS,
    "Arguments of the call": CALL,
}
TABLE = [option for part in PARTS.values() for option in part]
