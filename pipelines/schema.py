"""One row = one clip: the columns of a shard and their version.

Boxes are (left, top, right, bottom) in float pixels. A change of meaning raises VERSION; readers refuse what
they do not know.
"""

import pyarrow as pa

VERSION = "1"
BOX = pa.list_(pa.float32(), 4)

CLIP = pa.schema(
    [
        ("clip_id", pa.string()),
        ("dataset", pa.string()),
        ("identity", pa.string()),
        ("split", pa.string()),
        ("source_uri", pa.string()),
        ("source_sha256", pa.string()),
        ("source_span_s", pa.list_(pa.float64(), 2)),  # start, end in the source; never null, as crop_box
        ("source_fps", pa.float64()),
        ("fps", pa.float64()),
        ("n_frames", pa.int32()),
        ("size", pa.int32()),  # frames are size x size
        ("crop_box", BOX),  # in source pixels; may leave the source, black there
        ("face_boxes", pa.list_(BOX)),  # n x 4, in crop pixels, as detected
        ("landmarks", pa.list_(pa.list_(pa.float32(), 136))),  # n x (68 points x, y) in crop pixels, or null
        ("frames", pa.list_(pa.binary())),  # n JPEG files
        ("audio", pa.binary()),  # m4a, or null
        ("emotion", pa.string()),
        ("intensity", pa.int32()),
        (
            "quality",
            pa.struct(
                [
                    ("detection_rate", pa.float32()),  # share of frames with a face of their own
                    ("sharpness", pa.float32()),  # variance of the Laplacian of the face at 128 px
                    ("min_face_px", pa.float32()),  # smallest longer side, source pixels
                    ("max_jump", pa.float32()),  # largest move of the centre between frames, in box sides
                ]
            ),
        ),
        ("detector", pa.string()),
        ("code_version", pa.string()),
    ],
    metadata={"schema_version": VERSION},
)
LIGHT = [name for name in CLIP.names if name not in ("frames", "audio", "face_boxes", "landmarks")]
