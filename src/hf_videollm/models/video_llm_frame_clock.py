"""The times of the frames of a video, for processors that choose frames by seconds."""

import numpy as np
from transformers.video_utils import VideoMetadata

from .media_clip import TIME_SLACK


class FrameClock:
    """Converts seconds of a video file to frame numbers.

    It uses the times of the frames if the metadata holds them, and otherwise the frame rate.
    """

    def __init__(self, metadata: VideoMetadata) -> None:
        self.rate = float(metadata.fps)
        self.total = int(metadata.total_num_frames)
        self.duration = metadata.duration
        times = getattr(metadata, "frame_times", None)
        steps = np.arange(self.total) / self.rate
        self.times = steps if times is None else np.asarray(times)
        # The time of frame 0. It is greater than 0 if the sound of the file begins before the pictures.
        self.begin = float(self.times[0])
        # Files round timestamps to ticks of a clock. So the rate still counts as constant if no frame is more than a
        # quarter of a frame's duration away from the time that it has at a constant rate.
        self.is_constant = bool(np.allclose(self.times - self.begin, steps, rtol=0, atol=0.25 / self.rate))

    def frame_shown_at(self, seconds: float) -> int:
        """Number of the frame on screen at a time; the first or the last frame if the time is outside the video."""
        return max(0, int(np.searchsorted(self.times, seconds + TIME_SLACK, side="right")) - 1)

    def frame_at(self, seconds: float) -> int:
        """Number of the frame whose start is closest to a time; if two are equally close, the even number.

        If the frame rate varies, this is the number of the frame on screen.
        """
        if not self.is_constant:
            return self.frame_shown_at(seconds)
        return max(0, round((seconds - self.begin) * self.rate))

    def seconds(self, frame: int) -> float:
        """Time of a frame in seconds. For `frame` equal to the number of frames, it is the end of the video."""
        if frame < self.total:
            return float(self.times[frame])
        return self.begin + (self.duration or self.total / self.rate)


__all__ = ["FrameClock"]
