"""Processor of XGen-MM: makes the prompts of its instruction tuning, with 128 placeholders for each image."""

from typing import Any, ClassVar

from transformers.image_utils import make_flat_list_of_images
from transformers.processing_utils import MultiModalData

from .processing_video_llm import placeholder_id
from .video_llm_checked_processor import CheckedProcessor
from .video_llm_trust import NoQuestionMixin

# The layout of the public training code (salesforce/LAVIS, branch xgen-mm, `open_flamingo/train/sft_data_utils.py`):
# that of Phi-3, with the system message below if a conversation has none, and a line break after each image. The
# generation tags mark the text that a model is trained on. The "base" checkpoints were not trained on this layout:
# their prompt is `<image>` and the text.
CHAT_TEMPLATE = (
    "{%- if not messages or messages[0]['role'] != 'system' -%}"
    "{{ '<|system|>\\nA chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user\\'s questions.<|end|>\\n' }}"
    "{%- endif -%}"
    "{%- for message in messages -%}"
    "{%- set role = message['role'] -%}"
    "{%- if role not in ['system', 'user', 'assistant'] -%}"
    "{{ raise_exception('Roles are system, user and assistant, not ' + role + '.') }}"
    "{%- endif -%}"
    "{%- set chat = namespace(text='') -%}"
    "{%- if message['content'] is string -%}{%- set chat.text = message['content'] -%}"
    "{%- else -%}"
    "{%- for block in message['content'] -%}"
    "{%- if block['type'] == 'text' -%}{%- set chat.text = chat.text + block['text'] -%}"
    "{%- elif role == 'user' and block['type'] == 'image' -%}{%- set chat.text = chat.text + '<image>\\n' -%}"
    "{%- else -%}"
    "{{ raise_exception('A ' + role + ' message cannot hold ' + block['type'] + '.') }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- endif -%}"
    "{{ '<|' + role + '|>\\n' }}"
    "{%- if role == 'assistant' -%}"
    "{%- generation -%}{{ chat.text + '<|end|>\\n' }}{%- endgeneration -%}"
    "{%- else -%}{{ chat.text + '<|end|>\\n' }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|assistant|>\\n' }}{%- endif -%}"
)


class XgenMMProcessor(NoQuestionMixin, CheckedProcessor):
    """Makes model inputs for XGen-MM with an image processor and a tokenizer.

    The image processor is `SiglipImageProcessor(size={"height": 384, "width": 384})`, which resizes every image to a
    square and ignores its aspect ratio, as the released checkpoints do for their view of the whole image.
    """

    default_chat_template: ClassVar[str] = CHAT_TEMPLATE

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        chat_template: str | dict[str, str] | None = None,
        image_token: str = "<image>",
        num_query_tokens: int = 128,
    ) -> None:
        """Args:
        image_token: text of the image placeholder, one token of the tokenizer.
        num_query_tokens: vectors of an image, as in the configuration of the model.
        """
        self.image_token = image_token
        self.image_token_id = placeholder_id(tokenizer, image_token)
        self.num_query_tokens = num_query_tokens
        super().__init__(image_processor, tokenizer, chat_template=chat_template or self.default_chat_template)

    def validate_inputs(
        self, images: Any = None, text: Any = None, videos: Any = None, audio: Any = None, **kwargs: Any
    ) -> None:
        """Check that the prompts hold one placeholder per image.

        Raises:
            ValueError: they do not; or videos or audio were passed, which transformers would ignore without a message.
        """
        if videos is not None or audio is not None:
            raise ValueError("XGen-MM takes only text and images; together with LinVT, it also takes videos.")
        if text is not None and all(isinstance(sample, str) for sample in text):
            num_placeholders = sum(sample.count(self.image_token) for sample in text)
            num_images = 0 if images is None else len(make_flat_list_of_images(images))
            if num_placeholders != num_images:
                raise ValueError(
                    f"The prompts hold {num_placeholders} {self.image_token} placeholders, but {num_images} images "
                    f"were passed: write {self.image_token} once for each image, where it belongs in the text."
                )
        super().validate_inputs(images=images, text=text, videos=videos, audio=audio, **kwargs)

    def num_image_tokens(self) -> int:
        """The number of vectors of an image."""
        return self.num_query_tokens

    def pairing(self) -> dict[str, Any]:
        """As in `ProcessorContract`, and the number of vectors of an image."""
        return {**super().pairing(), "number of query tokens": self.num_query_tokens}

    def replace_image_token(self, image_inputs: dict, image_idx: int, **kwargs: Any) -> str:
        return self.image_token * self.num_query_tokens

    def _get_num_multimodal_tokens(self, image_sizes: list | None = None, **kwargs: Any) -> MultiModalData:
        """Numbers of placeholders, for serving engines, which need them before they have pixels.

        Args:
            image_sizes: (height, width) of each image.
        """
        if image_sizes is None:
            return MultiModalData()
        count = len(image_sizes)
        return MultiModalData(num_image_tokens=[self.num_query_tokens] * count, num_image_patches=[1] * count)


__all__ = ["XgenMMProcessor"]
