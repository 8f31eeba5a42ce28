"""X-NeMo (ICLR 2025): animate one portrait with the head motion and expression of a driving video.

Shapes throughout: B batch, F frames, L tokens, C channels, H W pixels. Images are RGB.
"""
