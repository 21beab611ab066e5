"""What a stage trains depends on its recipe, not on the stages that the model went through before."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from every_design import every_design
from factory import DesignCase

from hf_videollm.synthetic.clips import generate_dataset
from hf_videollm.synthetic.tiny.pllava import build_tiny_pllava
from hf_videollm.training.sft import Recipe, make_trainer
from hf_videollm.training.trainable import freeze_all_but, thaw


def learning(model: torch.nn.Module) -> set[str]:
    """Names of the parameters that are trained."""
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@every_design
def test_a_stage_trains_the_same_after_another(case: DesignCase) -> None:
    new = case.make_model()
    everything = learning(new)
    names = set(freeze_all_but(new, ["language_model"])) & everything
    model = case.make_model()
    freeze_all_but(model, ["vision_tower|vision_model|visual"])
    assert not learning(model) & names
    freeze_all_but(model, ["language_model"])
    assert learning(model) == learning(new)
    thaw(model)
    assert learning(model) == everything
    # What its owner froze stays frozen.
    for name in sorted(names)[:3]:
        model.get_parameter(name).requires_grad_(False)
    freeze_all_but(model, ["language_model"])
    thaw(model)
    assert learning(model) == everything - set(sorted(names)[:3])


def test_stages_of_one_process(tmp_path: Path) -> None:
    """Part of the model, then all of it, then parts beside a LoRA: as in three processes."""
    records = str(generate_dataset(tmp_path / "clips", 2, kind="motion", progress=False))
    arguments = {"output_dir": str(tmp_path / "out"), "max_steps": 1, "use_cpu": True, "report_to": "none"}
    first = Recipe(records=records, trainable=["connector"], arguments=arguments)
    lora = {"r": 2, "target_modules": ["q_proj"]}
    stages = [first, replace(first, trainable=None), first, replace(first, lora=lora, trainable=["vision_tower"])]

    def model_and_processor() -> tuple[Any, Any]:
        return build_tiny_pllava(num_frames=4, image_size=32, patch_size=8, pooling_shape=(2, 2, 2))

    alone = [learning(make_trainer(stage, *model_and_processor()).model) for stage in stages]
    model, processor = model_and_processor()
    in_turn = [learning(make_trainer(stage, model, processor).model) for stage in stages]
    assert in_turn == alone
    # The control: the stages differ.
    assert len({frozenset(names) for names in alone}) == 3
