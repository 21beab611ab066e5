"""A sweep is a row of evaluations: of one setting it is an evaluation, in any order it is the same, and it leaves no
trace in model and processor."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from disturbing_lora import disturbed_pipe
from evaluated_clips import TASKS, bare, make_task, write_benchmark

from hf_videollm.evaluation import sweep_plot
from hf_videollm.evaluation.answer_lengths import Lengths, bin_edges, lengths_of
from hf_videollm.evaluation.asking import rendered_prompt
from hf_videollm.evaluation.data_files import DataFiles
from hf_videollm.evaluation.items import Item
from hf_videollm.evaluation.prompting import Prompt
from hf_videollm.evaluation.provenance import folder_revision
from hf_videollm.evaluation.run_options import RunOptions
from hf_videollm.evaluation.runner import Runner
from hf_videollm.evaluation.sweep import finished_result, run_setting, run_sweep
from hf_videollm.evaluation.sweep_kinds import make_settings, text_of
from hf_videollm.evaluation.sweep_plot import write_plot
from hf_videollm.evaluation.sweep_report import SweepReport, SweepRow
from hf_videollm.synthetic.check import ClipQuestion

CLIPS, _ = TASKS


@pytest.fixture
def benchmark(tmp_path: Path, questions: list[ClipQuestion]) -> DataFiles:
    """One question of each kind."""
    return DataFiles(write_benchmark(tmp_path / "data", questions[::4]))


@pytest.fixture(scope="module")
def pipe_with_lora() -> Any:
    return disturbed_pipe()


def runner(pipe: Any, **options: Any) -> Runner:
    return Runner(pipe, "the model", RunOptions(**{"batch_size": 4, **options}))


def swept(pipe: Any, kind: str, values: list[str], data: DataFiles, folder: Path, task: Any = CLIPS) -> SweepReport:
    report = run_sweep(runner(pipe), kind, task, data, folder, make_settings(kind, values, pipe, task))
    assert report is not None
    return report


def state(pipe: Any) -> Any:
    """Everything a sweep might change."""
    model = pipe.model
    name = model.lora_name()
    scales = {} if name is None else {key: layer.scaling[name] for key, layer in model.lora_layers().items()}
    connector = getattr(model.base_model.connector, "pooling_shape", None)
    return (
        model.config.to_dict(),
        model.base_model.config.to_dict(),
        connector,
        type(connector),
        pipe.processor.to_dict(),
        scales,
        model.training,
    )


@pytest.mark.parametrize(
    ("name", "kind", "value", "options"),
    [
        ("pllava-tiny", "frames", "6", {"num_frames": 6}),
        ("pllava-tiny", "pooling", "8x4x4", {}),
        ("ftfv-tiny", "tokens-per-frame", "3", {"num_tokens_per_frame": 3}),
        ("iva-tiny", "frames", "4", {"num_frames": 4}),
    ],
)
def test_a_sweep_of_one_value_is_an_evaluation(
    bundled_pipe: Callable[[str], Any],
    benchmark: DataFiles,
    tmp_path: Path,
    name: str,
    kind: str,
    value: str,
    options: dict[str, int],
) -> None:
    pipe = bundled_pipe(name)
    report = swept(pipe, kind, [value], benchmark, tmp_path / "sweep")
    expected = runner(pipe, processor_options=options).run(CLIPS, benchmark, tmp_path / "run")
    assert expected is not None
    (row,) = report.rows
    assert row.result["metrics"] == expected["metrics"]
    assert row.result["counts"]["errors"] == 0
    place = tmp_path / "sweep" / row.label
    assert (place / "records.jsonl").read_bytes() == (tmp_path / "run/records.jsonl").read_bytes()
    # The folder is that of an evaluation: without the sweep it goes on as one.
    assert json.loads((place / "settings.json").read_text())["processor_options"] == options


def test_the_order_of_values_does_not_matter(
    bundled_pipe: Callable[[str], Any], benchmark: DataFiles, tmp_path: Path
) -> None:
    pipe = bundled_pipe("pllava-tiny")
    first = swept(pipe, "pooling", ["8x4x4", "1x1x1", "8x2x2@4"], benchmark, tmp_path / "first")
    second = swept(pipe, "pooling", ["8x2x2@4", "8x4x4", "1x1x1", "8x4x4"], benchmark, tmp_path / "second")
    assert first.as_csv() == second.as_csv()
    assert first.to_dict() == second.to_dict()
    assert [row.label for row in first.rows] == ["pooling-1x1x1", "pooling-8x2x2-frames-4", "pooling-8x4x4"]
    # The control: the settings do differ, and one of them is what the model was trained with.
    assert first.best is not None
    assert first.best.value == {"pooling_shape": [8, 4, 4]}
    assert first.rows[0].numbers[0].value < first.best.numbers[0].value == 1.0
    assert first.rows[1].result["frames"] == {"videos": 5, "fewest": 4, "most": 4}
    low, high = first.rows[0].numbers[0].low, first.rows[0].numbers[0].high
    assert low is not None
    assert high is not None
    assert low <= first.rows[0].numbers[0].value <= high


def test_alpha_is_set_on_the_loaded_model(
    pipe_with_lora: Any, bundled_pipe: Callable[[str], Any], benchmark: DataFiles, tmp_path: Path
) -> None:
    pipe_with_lora.model.set_lora_alpha(2.5)
    report = swept(pipe_with_lora, "alpha", ["1000", "0"], benchmark, tmp_path / "sweep")
    assert [row.value for row in report.rows] == [0.0, 1000.0]
    assert [row.result["settings"]["model"]["lora_alpha"] for row in report.rows] == [0.0, 1000.0]
    # An alpha of 0 is the model without its LoRA; the other one answers nonsense.
    runner(bundled_pipe("pllava-tiny")).run(CLIPS, benchmark, tmp_path / "plain")
    answers = [(tmp_path / place / "records.jsonl").read_bytes() for place in ("plain", "sweep/alpha-0")]
    assert answers[0] == answers[1]
    assert report.best is not None
    assert report.best.value == 0.0
    assert report.rows[1].numbers[0].value < 0.5


@pytest.mark.parametrize(("kind", "value"), [("alpha", "7.25"), ("pooling", "4x2x2@6"), ("frames", "3")])
@pytest.mark.parametrize("fails", [False, True])
def test_model_and_processor_are_as_before(
    pipe_with_lora: Any, benchmark: DataFiles, tmp_path: Path, kind: str, value: str, fails: bool
) -> None:
    pipe = pipe_with_lora
    # A scale of one layer's own is a strength that no single alpha can give back.
    next(iter(pipe.model.lora_layers().values())).scaling["default"] = 0.123
    pipe.model.train()
    before, during = state(pipe), []

    def rule(item: Item, question: str) -> Prompt:
        during.append((state(pipe), pipe.processor.num_video_tokens(6), pipe.model.config.num_video_tokens(6)))
        if fails:
            raise TypeError("a fault of the run")
        return bare(item, question)

    task = make_task(prompts={"default": rule})
    chosen = runner(pipe, seed=3)
    options = chosen.options
    (setting,) = make_settings(kind, [value], pipe, task)
    if fails:
        with pytest.raises(TypeError, match="a fault of the run"):
            run_setting(chosen, task, benchmark, tmp_path, setting)
    else:
        assert run_setting(chosen, task, benchmark, tmp_path, setting) is not None
    assert state(pipe) == before
    assert chosen.options is options
    # The control: it was changed meanwhile, and the two agreed.
    assert all(in_processor == in_model for _, in_processor, in_model in during)
    assert (during[-1][0][:6] != before[:6]) is (kind != "frames")
    pipe.model.eval()


@pytest.mark.parametrize(
    ("name", "kind", "values", "message"),
    [
        ("ftfv-tiny", "alpha", ["1"], "FtfvForConditionalGeneration keeps no LoRA whose alpha could be set: PLLaVA"),
        ("pllava-tiny", "alpha", ["1"], "has no LoRA adapter: it was merged or never had one"),
        ("iva-tiny", "pooling", ["1x1x1"], "IvaForConditionalGeneration has no pooling shape: PLLaVA does"),
        ("pllava-tiny", "pooling", ["4x4"], "is TxHxW or TxHxW@FRAMES, such as 16x12x12 or 4x12x12@64, not '4x4'"),
        ("pllava-tiny", "pooling", ["4x0x4"], "not '4x0x4'"),
        ("pllava-tiny", "pooling", ["1x1x1", "100x100x100"], "makes 1,000,000 tokens of a video, more than 32,768"),
        ("pllava-tiny", "tokens-per-frame", ["1"], "cannot choose the tokens of a frame: FTFV can"),
        ("ftfv-tiny", "tokens-per-frame", ["4", "17"], "a whole number from 1 to 16, not '17'"),
        ("pllava-tiny", "frames", ["0"], "a whole number of at least 1, not '0'"),
        ("pllava-tiny", "prompt-styles", ["defualt"], "has no prompt style 'defualt': did you mean default"),
        ("ftfv-tiny", "prompt-styles", ["A/B"], "are for PLLaVA's chat template"),
        ("pllava-tiny", "prompt-styles", ["/B"], "Role tags are USER/ASSISTANT"),
        ("pllava-tiny", "pool", [], "There is no sweep 'pool': did you mean pooling"),
    ],
)
def test_what_cannot_be_swept_is_told(
    bundled_pipe: Callable[[str], Any], name: str, kind: str, values: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make_settings(kind, values, bundled_pipe(name), CLIPS)


@pytest.mark.parametrize("values", [["nan"], ["-1"], ["inf"], ["x"]])
def test_an_alpha_is_a_number_of_at_least_0(pipe_with_lora: Any, values: list[str]) -> None:
    with pytest.raises(ValueError, match="alpha must be a number of at least 0, not"):
        make_settings("alpha", values, pipe_with_lora, CLIPS)


def test_values_of_the_papers(bundled_pipe: Callable[[str], Any], pipe_with_lora: Any) -> None:
    def labels(kind: str, pipe: Any) -> list[str]:
        return [setting.label for setting in make_settings(kind, [], pipe, CLIPS)]

    assert labels("alpha", pipe_with_lora)[:2] == ["alpha-0", "alpha-4"]
    assert labels("pooling", pipe_with_lora)[-1] == "pooling-4x24x24"
    # N is always among them, and nothing is above it.
    assert labels("tokens-per-frame", bundled_pipe("ftfv-tiny")) == ["tokens-8", "tokens-16"]
    assert labels("prompt-styles", pipe_with_lora) == ["style-default"]
    # Alphas that look alike have folders of their own.
    close = make_settings("alpha", ["0.1234567", "0.1234568"], pipe_with_lora, CLIPS)
    assert len({setting.label for setting in close}) == 2


def test_other_role_tags_change_nothing_else(bundled_pipe: Callable[[str], Any], benchmark: DataFiles) -> None:
    pipe = bundled_pipe("pllava-tiny")
    item = next(iter(CLIPS.items(benchmark)))

    def text(prompt: Prompt) -> str:
        return rendered_prompt(pipe.processor, prompt, prompt.messages(item))

    settings = make_settings("prompt-styles", ["default", "USER:/ASSISTANT:", "Human:/Robot:"], pipe, CLIPS)
    texts = [
        text(setting.task(CLIPS).prompt_rule(setting.prompt_style or "")(item, item.question)) for setting in settings
    ]
    assert texts[0] == texts[1]
    assert texts[2] == texts[0].replace("USER:", "Human:").replace("ASSISTANT:", "Robot:")
    assert texts[2] != texts[0]


def test_lengths_are_counted_in_words_and_tokens() -> None:
    class Letters:
        def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
            return {"input_ids": [1] * add_special_tokens + [2] * len(text)}

    found = lengths_of(["", "a  man", "two small dogs"], Letters())
    assert found["words"].values == (0, 2, 3)
    assert found["tokens"].values == (0, 6, 14)
    assert found["words"].quantiles()["0.5"] == 2.0
    longer = {"words": Lengths("words", (0, 99))}
    edges = bin_edges([found, longer], "words")
    assert len(edges) == 21
    assert edges[-1] > 99
    assert found["words"].histogram(edges) == [3, *[0] * 19]
    assert sum(longer["words"].histogram(edges)) == 2
    assert bin_edges([found], "words") == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert found["words"].histogram(bin_edges([found], "words")) == [1, 0, 1, 1]


def test_a_result_of_other_items_is_not_taken_for_this_one(tmp_path: Path) -> None:
    assert finished_result(tmp_path, 3) is None
    (tmp_path / "result.json").write_text('{"counts": {"items": 3}}')
    assert finished_result(tmp_path, 3) is not None
    assert finished_result(tmp_path, 4) is None


def made_report(kind: str = "alpha", scored: bool = True) -> SweepReport:
    def row(x: float) -> SweepRow:
        metrics = {"accuracy": x / 10, "intervals": {"accuracy": {"low": x / 20, "high": x / 8}}} if scored else {}
        counts = {"items": 4, "errors": 0, "parse_failures": 1, "judge_failures": 0}
        return SweepRow(f"alpha-{x:g}", x, {"metrics": metrics, "counts": counts}, x)

    return SweepReport(kind, "task", "Task", (row(1.0), row(4.0)))


def test_the_plot_is_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, begins in (("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.pdf", b"%PDF")):
        write_plot(tmp_path / name, made_report())
        assert (tmp_path / name).read_bytes().startswith(begins)
    assert "LoRA alpha" in (tmp_path / "a.svg").read_text()
    lengths = {"words": Lengths("words", (1, 2)), "tokens": Lengths("tokens", (2, 9))}
    report = made_report("prompt-styles", scored=False)
    with pytest.raises(ValueError, match="There is nothing to plot: no setting has a number"):
        write_plot(tmp_path / "b.png", report)
    write_plot(tmp_path / "b.png", replace(report, rows=tuple(replace(row, lengths=lengths) for row in report.rows)))
    assert (tmp_path / "b.png").exists()
    with pytest.raises(ValueError, match=r"ends with \.png, \.svg, \.pdf, not 'a\.txt'"):
        write_plot(tmp_path / "a.txt", made_report())
    monkeypatch.setattr(sweep_plot, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "hf-videollm\[plots\]"'):
        write_plot(tmp_path / "c.png", made_report())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pdf", "a.png", "a.svg", "b.png"]


def test_points_and_intervals_are_where_the_numbers_say(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[Any, Any, Any]] = []
    limits: list[tuple[float, float]] = []
    panel = SimpleNamespace(
        errorbar=lambda xs, ys, yerr, **others: drawn.append((xs, ys, yerr)),
        set_xticks=lambda *arguments, **others: None,
        set=lambda **others: None,
        get_ylim=lambda: (-3.0, 102.5),
        set_ylim=lambda low, high: limits.append((low, high)),
        grid=lambda **others: None,
    )
    sweep_plot._draw_number(panel, made_report(), "accuracy")
    ((xs, ys, around),) = drawn
    assert limits == [(0.0, 100.0)], "no axis of percents passes them"
    assert xs == [1.0, 4.0]
    assert ys == pytest.approx([10.0, 40.0])
    assert [y - below for y, below in zip(ys, around[0], strict=True)] == pytest.approx([5.0, 20.0])
    assert [y + above for y, above in zip(ys, around[1], strict=True)] == pytest.approx([12.5, 50.0])


def test_the_table_says_what_is_best() -> None:
    report = made_report()
    assert report.best is not None
    assert report.best.label == "alpha-4"
    same = replace(report, rows=(report.rows[1], replace(report.rows[1], label="later")))
    assert same.best is same.rows[0]
    assert made_report(scored=False).best is None
    lines = made_report().as_csv().splitlines()
    assert lines[1] == "alpha-1,accuracy,0.1,0.05,0.125,4,0,1,0"
    assert made_report(scored=False).as_csv().splitlines()[1] == "alpha-1,,,,,4,0,1,0"
    assert report.to_dict()["best"] == 4.0


def test_equal_numbers_are_told() -> None:
    report = made_report()
    assert not report.is_tied, "the control"
    first, last = report.rows
    tied = replace(report, rows=(last, replace(last, label="later")))
    assert (tied.is_tied, tied.to_dict()["tied"]) == (True, True)
    # One setting alone is no tie, and a row of an earlier sweep does not count.
    assert not replace(report, rows=(last,)).is_tied
    kept = replace(report, rows=(first, replace(last, is_kept=True)))
    assert kept.best is first
    assert [row.label for row in replace(report, rows=(first, last, last)).equally_good] == ["alpha-4", "alpha-4"]


@pytest.mark.parametrize(
    ("kind", "texts"),
    [("pooling", ["4x12x12", "4x12x12@64"]), ("frames", ["4"]), ("prompt-styles", ["default", "A:/B:"])],
)
def test_the_value_of_a_table_is_read_back(bundled_pipe: Callable[[str], Any], kind: str, texts: list[str]) -> None:
    pipe = bundled_pipe("pllava-tiny")
    for text in texts:
        (setting,) = make_settings(kind, [text], pipe, CLIPS)
        value = json.loads(json.dumps(setting.value))
        (again,) = make_settings(kind, [text_of(kind, value)], pipe, CLIPS)
        assert (again.label, again.value) == (setting.label, setting.value)


def test_the_alpha_of_a_folder_is_not_its_revision(tmp_path: Path) -> None:
    def revision(config: str) -> str | None:
        (tmp_path / "config.json").write_text(config)
        return folder_revision(str(tmp_path))

    first = revision('{"lora_alpha": 32, "size": 1}')
    assert first == revision('{"lora_alpha": 0.5, "size": 1}') == revision('{\n "size": 1, "lora_alpha": null\n}')
    assert first != revision('{"lora_alpha": 32, "size": 2}')
    assert revision('{"size": 1}') != revision('{"size": 2}')
    assert revision("{damaged") is not None
