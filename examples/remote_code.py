"""Share a checkpoint that runs where this package is not installed.

    python examples/remote_code.py                              # the bundled model
    python examples/remote_code.py ./my-model --video my.mp4 --question "What happens?"

A saved folder contains the code of its model, its processor and its pipeline. The first answer comes from this process,
with the package. The second answer comes from a new process that cannot import the package and uses only the folder.
"""

import argparse
import os
import subprocess
import sys
import tempfile

from transformers.utils import logging

import hf_videollm
from hf_videollm.synthetic.clips import make_scene, questions_for, write_scene_mp4

# The code of a user who does not have this package. The first two lines are only for this example: they make the import
# of the package fail.
STRANGER = """
import sys
sys.modules["hf_videollm"] = None
from transformers import pipeline
from transformers.utils import logging
logging.disable_progress_bar()
folder, video, question = sys.argv[1:]
pipe = pipeline("video-text-to-text", model=folder, trust_remote_code=True)
answer = pipe(video, text=question, return_full_text=False)[0]["generated_text"].strip()
print(f"without the package: {answer} ({type(pipe.model).__module__.split('.')[0]})")
"""


def main() -> None:
    """Save a checkpoint, and ask it a question here and in a process without the package."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default=hf_videollm.default_checkpoint(), help="folder or Hub id")
    parser.add_argument("--video", help="a video; a made-up clip if omitted")
    parser.add_argument("--question", default="What happens in the video?")
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    pipe = hf_videollm.load_pipeline(arguments.model)
    with tempfile.TemporaryDirectory() as place:
        video, question = arguments.video, arguments.question
        if video is None:
            scene, video = make_scene(2_000_000, kind="motion"), os.path.join(place, "clip.mp4")
            write_scene_mp4(scene, video)
            question = questions_for(scene)[-1].question
            print(f"{question} (right: {questions_for(scene)[-1].answer})")
        answer = pipe(video, text=question, return_full_text=False)[0]["generated_text"].strip()
        print(f"with the package: {answer} ({type(pipe.model).__module__.split('.')[0]})", flush=True)

        folder = os.path.join(place, "shared")
        hf_videollm.save_checkpoint(pipe.model, pipe.processor, folder)
        # transformers copies the code of the folder into a cache; here this is a temporary folder. The Hub is not used.
        environment = {**os.environ, "HF_MODULES_CACHE": os.path.join(place, "cache"), "HF_HUB_OFFLINE": "1"}
        subprocess.run([sys.executable, "-c", STRANGER, folder, video, question], env=environment, check=True)


if __name__ == "__main__":
    main()
