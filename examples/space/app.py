"""A page on which people ask a video: `python app.py`, or a Hugging Face Space."""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import watching

try:  # Only ZeroGPU has it.
    import spaces
except ImportError:
    spaces = None

CSS = """
.gradio-container { width: 100% !important; max-width: 1100px !important; margin: auto; box-sizing: border-box; }
#title h1 { margin-bottom: 0; }
#video video { max-height: 270px; }
#status { min-height: 1.6em; }
#status.problem { color: #b91c1c; }
@media (max-width: 640px) {
  .gradio-container { padding: 8px !important; }
  #title p { font-size: 0.9em; }
  #frames, #frames > *, #frames .grid-wrap { height: auto !important; max-height: none !important; }
  #frames .grid-container { grid-template-columns: repeat(4, minmax(0, 1fr)) !important; }
}
"""
TITLE = """# Ask a video
Upload or record one, choose a design, and go on asking: the video is read once."""
SECONDS_OF_GPU = 90
EXAMPLE_SEEDS = (2_000_000, 2_000_003)

# What the page shows after each step: conversation, status, frames, picture, picture's box, question, state.
Shown = tuple[Any, ...]


def on_gpu(function: Callable[..., Any]) -> Callable[..., Any]:
    """Run on the GPU that ZeroGPU lends for a call; elsewhere, as it is."""
    return function if spaces is None else spaces.GPU(duration=SECONDS_OF_GPU)(function)


def examples() -> list[list[str]]:
    """Clips and questions that the models of the package were trained for."""
    from hf_videollm.synthetic.clips import make_scene, questions_for, write_scene_mp4

    folder = Path(tempfile.mkdtemp(prefix="space-"))
    rows = []
    for seed in EXAMPLE_SEEDS:
        scene, file = make_scene(seed, kind="motion"), folder / f"clip-{seed}.mp4"
        write_scene_mp4(scene, file)
        rows.append([str(file), questions_for(scene)[0].question])
    return rows


@on_gpu
def ask(
    video: str | None, model: str, question: str, shows_look: bool, chat: list[Any], watched: Any
) -> Iterator[Shown]:
    """Answer a question, and show what happens meanwhile.

    Yields:
        Conversation, status, frames, picture of what was looked at, question, and the watched video.
    """
    keep = gr.update()
    chat = list(chat or [])
    try:
        question = watching.check(video, question)
        source = watching.models()[model]
        if watched is None or (watched.video, watched.source) != (video, source):
            if watched is not None:
                watched.close()
            watched, chat = None, []
            yield chat, "Loading the model and reading the video ...", [], gr.update(visible=False), keep, None
            watched = watching.watch(str(video), source)
        frames = watching.pictures(watched)
        chat += [{"role": "user", "content": question}, {"role": "assistant", "content": ""}]
        # The picture is that of the question before.
        yield chat, "Answering ...", frames, gr.update(visible=False), "", watched
        for text in watching.answer(watched, question):
            chat[-1]["content"] = text
            yield chat, "Answering ...", keep, keep, keep, watched
        picture = gr.update(visible=False)
        if shows_look and watching.can_look(source):
            yield chat, "Drawing what the model looked at ...", keep, keep, keep, watched
            picture = gr.update(value=watching.looked(watched, question), visible=True)
        yield chat, "", keep, picture, keep, watched
    except (ValueError, TypeError, OSError, RuntimeError, MemoryError) as error:
        yield chat, f"⚠️ {in_words(error)}", keep, keep, keep, watched


def in_words(error: BaseException) -> str:
    """One line that says what is wrong; of errors inside libraries, only that something failed."""
    text = " ".join(str(error).split())
    if "out of memory" in text.lower() or isinstance(error, MemoryError):
        return "The memory is not enough for this video: take a shorter one, or another design."
    if isinstance(error, RuntimeError) and not isinstance(error, NotImplementedError):
        return f"The model failed ({text[:160] or type(error).__name__})."
    # Names of temporary files mean nothing to a visitor.
    return text.replace(tempfile.gettempdir() + "/", "")[:300] or type(error).__name__


def forget(watched: Any) -> Shown:
    """Begin anew with another video or design."""
    if watched is not None:
        watched.close()
    return [], "", [], gr.update(visible=False), None


def build() -> gr.Blocks:
    """The page."""
    names = list(watching.models())
    limits = f"Up to {watching.MAX_MEGABYTES:g} MB and {watching.MAX_SECONDS:g} seconds."
    with gr.Blocks(title="Ask a video") as page:
        gr.Markdown(TITLE, elem_id="title")
        state = gr.State(None, delete_callback=lambda watched: watched and watched.close())
        with gr.Row():
            with gr.Column(min_width=300):
                video = gr.Video(label="Video", sources=["upload", "webcam"], height=330, elem_id="video")
                gr.Markdown(limits)
                model = gr.Dropdown(names, value=names[0], label="Design", elem_id="design")
                shows_look = gr.Checkbox(True, label="Show where LinVT, IVA or FTFV looked", elem_id="shows-look")
            with gr.Column(min_width=300):
                chat = gr.Chatbot(label="Conversation", height=330, elem_id="chat")
                question = gr.Textbox(
                    label="Question", placeholder="What happens?", max_length=watching.MAX_QUESTION, elem_id="question"
                )
                with gr.Row():
                    send = gr.Button("Ask", variant="primary", elem_id="ask")
                    stop = gr.Button("Stop", elem_id="stop")
                status = gr.Markdown("", elem_id="status")
                # On a phone, what stands in this column comes after the video, so the conversation is not far from it.
                if not os.environ.get("SPACE_MODELS"):
                    gr.Examples(examples(), [video, question], label="Clips that the small models know")
        # The labels of these two would lie on the pictures.
        gr.Markdown("### Frames that the model saw")
        frames = gr.Gallery(show_label=False, columns=8, height=150, elem_id="frames")
        look = gr.Image(show_label=False, visible=False, elem_id="look", type="pil")
        running = gr.on(
            [send.click, question.submit],
            ask,
            [video, model, question, shows_look, chat, state],
            [chat, status, frames, look, question, state],
            concurrency_limit=1,
            show_progress_on=[chat],
        )
        stop.click(None, cancels=[running])
        gr.on([video.change, model.change], forget, [state], [chat, status, frames, look, state], cancels=[running])
    return page


def main() -> None:
    """Serve the page."""
    page = build()
    page.queue(max_size=20).launch(
        max_file_size=int(watching.MAX_MEGABYTES * 1e6), css=CSS, theme=gr.themes.Soft(), show_error=True
    )


if __name__ == "__main__":
    main()
