"""Processor of PLLaVA: writes prompts like the official evaluation, with one placeholder per pooled position."""

import math
from typing import Any

from transformers import BatchFeature

from .configuration_pllava import pllava_pooled_shape
from .processing_video_llm import VideoLlmProcessor

# "USER: <video>\n question ASSISTANT: answer</s>" is the prompt of the official evaluation for VideoQA. The official
# training tokenizes each answer alone, and LLaMA's tokenizer then puts a blank before it; so this template writes a
# blank, too. Blocks keep their order, and "\n " follows each run of adjacent media. The generation tags mark the text
# that a model is trained on.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- set blocks = message['content'] -%}"
    "{%- if blocks is string -%}{%- set blocks = [{'type': 'text', 'text': blocks}] -%}{%- endif -%}"
    "{%- for block in blocks -%}"
    "{%- if block['type'] not in (['text', 'video', 'image'] if message['role'] == 'user' else ['text']) -%}"
    "{{ raise_exception('A ' + message['role'] + ' message cannot hold ' + block['type'] + '.') }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if message['role'] == 'assistant' -%}"
    "{{ 'ASSISTANT:' }}"
    "{%- generation -%}"
    "{{ ' ' }}{%- for block in blocks -%}{{ block['text'] }}{%- endfor -%}{{ eos_token }}"
    "{%- endgeneration -%}"
    "{%- elif message['role'] == 'user' -%}"
    "{{ 'USER: ' }}"
    "{%- for block in blocks -%}"
    "{%- if block['type'] == 'text' -%}{{ block['text'] }}"
    "{%- else -%}"
    "{{ '<' + block['type'] + '>' }}"
    "{%- if loop.last or loop.nextitem['type'] == 'text' -%}{{ '\\n ' }}{%- endif -%}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{{ ' ' }}"
    "{%- elif message['role'] == 'system' -%}"
    "{%- for block in blocks -%}{{ block['text'] }}{%- endfor -%}"
    "{%- if blocks and blocks[0]['text'] -%}{{ ' ' }}{%- endif -%}"
    "{%- else -%}"
    "{{ raise_exception('Roles are system, user and assistant, not ' + message['role'] + '.') }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ 'ASSISTANT:' }}{%- endif -%}"
)


class PllavaProcessor(VideoLlmProcessor):
    """Makes model inputs for PLLaVA.

    The original code writes `<image>` for a video. Therefore, if a call has videos but no images, each `<image>` in its
    prompts is replaced by `<video>`.
    """

    default_chat_template = CHAT_TEMPLATE

    @classmethod
    def options_from_config(cls, config: Any) -> dict[str, Any]:
        """See the base class."""
        return {"pooling_shape": list(config.pooling_shape)}

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        video_processor: Any = None,
        chat_template: str | dict[str, str] | None = None,
        image_token: str = "<image>",
        video_token: str = "<video>",
        pooling_shape: tuple[int, int, int] | list[int] = (16, 12, 12),
    ) -> None:
        """Args:
        pooling_shape: (time, height, width) of the model's pooling, from which the number of placeholders follows.
        """
        super().__init__(image_processor, tokenizer, video_processor, chat_template, image_token, video_token)
        self.pooling_shape = list(pooling_shape)

    def num_image_tokens(self) -> int:
        """An image is one frame: (1, height, width) of the pooling shape."""
        return self.num_video_tokens(1)

    def num_video_tokens(self, num_frames: int) -> int:
        """Number of pooled positions, computed by the same function as in the connector."""
        return math.prod(pllava_pooled_shape(num_frames, self.pooling_shape))

    def __call__(
        self, images: Any = None, text: Any = None, videos: Any = None, audio: Any = None, **kwargs: Any
    ) -> BatchFeature:
        """Model inputs of one prompt or a batch of them.

        Args:
            images: images of all prompts in their order.
            text: a prompt or a list of prompts, with `<image>` and `<video>` where the media belong.
            videos: videos of all prompts in their order, of any type that `media_video.load_video` accepts.
            kwargs: options of the tokenizer and of the image and video processors, e.g. `num_frames`, `start`, `end`,
                `padding`, `return_tensors`.

        Raises:
            ValueError: the prompts hold more or fewer placeholders than there are media.
            MediaError: a video cannot be read.
        """
        if text is not None and videos is not None:
            prompts = [text] if isinstance(text, str) else list(text)
            if images is None:
                prompts = [prompt.replace(self.image_token, self.video_token) for prompt in prompts]
            # `resize_mode="pllava"` resizes all videos of one prompt together, so the video processor must know which
            # videos belong to the same prompt.
            kwargs.setdefault("videos_per_prompt", [prompt.count(self.video_token) for prompt in prompts])
            text = prompts
        return super().__call__(images=images, text=text, videos=videos, audio=audio, **kwargs)


__all__ = ["PllavaProcessor"]
