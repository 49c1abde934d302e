"""Parameters and operations of the three networks, by part, from their configurations alone.

Nothing is built and nothing is measured here: counting a model of 456 B parameters takes a millisecond. Parameters are exact; operations
are those of matrix products, attention and convolutions, a multiplication and an addition counting as two, as
`torch.utils.flop_counter` counts them. Both are tested against the real networks.

Shapes: B batch, n latent frames, h w tokens of a latent frame, L = n * h * w, S text tokens, D width, I = heads * head width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from videogen.models.embeddings import NUM_CAMERA_MOVES, NUM_KINDS

Config = Mapping[str, Any]
Counts = dict[str, int]

#: Waves of `FrameEmbedding` and `TokenPosition`; not part of the configuration.
_NOISE_WAVES, _CLOCK_WAVES, _PLACE_WAVES = 2 * 64, 2 * 5, 2 * 5
#: One block of the tokenizer's wavelet: frames, rows and columns.
_PATCH = 4


@dataclass(frozen=True)
class Grid:
    """What the transformer sees in one evaluation of one item.

    Attributes:
        num_frames: latent frames, guides and references included.
        height: token rows of a frame.
        width: token columns.
        text_tokens: S.
        num_extra: how many of the frames are guides or references, which every frame sees.
    """

    num_frames: int
    height: int
    width: int
    text_tokens: int = 64
    num_extra: int = 0

    @property
    def per_frame(self) -> int:
        return self.height * self.width

    @property
    def tokens(self) -> int:
        return self.num_frames * self.per_frame

    def visible_frames(self, window: int | None) -> int:
        """Pairs (frame, frame it sees) in a windowed layer; see `videogen.models.embeddings.frame_visibility`."""
        n, always = self.num_frames, 1 + self.num_extra  # the first frame, guides and references
        if window is None or n <= window + 1:
            return n * n
        pairs = always * n  # those few see everything
        for frame in range(1, n - self.num_extra):
            low, high = max(0, frame - window), min(n - 1, frame + window)
            near = high - low + 1
            far = (low > 0) + max(0, self.num_extra - max(0, high - (n - self.num_extra) + 1))
            pairs += near + far
        return pairs


def _num_layers(c: Config) -> tuple[int, int, int, int, int]:
    """Layers with linear attention, with a softmax anchor, that read the text, with a dense feed-forward, with experts."""
    mixers, feed_forwards = list(c["mixers"]), list(c["feed_forwards"])
    return (
        mixers.count("linear"),
        mixers.count("softmax"),
        len(set(c["cross_attention_layers"])),
        feed_forwards.count("dense"),
        feed_forwards.count("moe"),
    )


def transformer_parameters(c: Config) -> Counts:
    """Parameters of a `VideoTransformer` by part; routed experts all counted."""
    width, inner, heads = c["width"], c["num_heads"] * c["head_dim"], c["num_heads"]
    linear, softmax, cross, dense, moe = _num_layers(c)
    token = c["latent_channels"] * c["patch_size"] ** 2
    embedding = (_NOISE_WAVES + 1) * width + (width + 1) * width + NUM_KINDS * width + (c["camera_dim"] + 1) * width
    embedding += (NUM_CAMERA_MOVES + _CLOCK_WAVES) * width + c["text_width"] * width
    # Places of tokens: partly in the scenery, by learnt speeds, or on the screen and in the scenery.
    in_scenery = c["camera_speeds"] is not None
    embedding += 4 * _PLACE_WAVES * width if in_scenery else NUM_CAMERA_MOVES + 2 * _PLACE_WAVES * width
    modulation = 6 * width * (width + 1) + 2 * width * (width + 1) + 2 * width + 6 * width * len(c["mixers"])
    return {
        "linear attention": linear
        * (4 * width * inner + heads * (width + 1) + 3 * c["head_dim"] + 9 * inner + inner * width),
        "softmax anchors": softmax * (3 * width * inner + heads * (width + 1) + 2 * c["head_dim"] + inner * width),
        "text cross-attention": cross * (width + 2 * width * inner + 2 * c["text_width"] * inner + 2 * c["head_dim"]),
        "dense feed-forwards": dense * 3 * width * c["dense_hidden"],
        "routed experts": moe * c["num_experts"] * 3 * width * c["expert_hidden"],
        "shared experts": moe * 3 * width * c["shared_hidden"],
        "routers": moe * c["num_experts"] * width,
        "embeddings and modulation": (token + 1) * width + embedding + modulation + (width + 1) * token,
    }


def transformer_active(c: Config) -> int:
    """Parameters that take part in one token: all but the experts it does not choose."""
    parts = transformer_parameters(c)
    routed = parts["routed experts"]
    return sum(parts.values()) - routed + routed * c["top_k"] // c["num_experts"]


def transformer_flops(c: Config, grid: Grid) -> Counts:
    """Operations of one forward pass over one item, by part.

    "linear attention" and "softmax anchors" are their projections; what tokens exchange stands apart as "linear state", "softmax
    scores" and "text scores": only "softmax scores" can grow with the square of the length.
    """
    width, inner, heads = c["width"], c["num_heads"] * c["head_dim"], c["num_heads"]
    length, n, text = grid.tokens, grid.num_frames, grid.text_tokens
    linear, softmax, cross, dense, moe = _num_layers(c)
    token = c["latent_channels"] * c["patch_size"] ** 2
    per_frame = (
        (_NOISE_WAVES + width + c["camera_dim"] + NUM_CAMERA_MOVES + _CLOCK_WAVES) * width
        + 8 * width * width  # modulation of the blocks and of the output
        + (grid.height + grid.width) * _PLACE_WAVES * width  # places of tokens
    )
    # Those on the screen are the same in all frames.
    on_screen = 0 if c["camera_speeds"] is None else 2 * (grid.height + grid.width) * _PLACE_WAVES * width
    pairs = grid.visible_frames(c["window"]) * grid.per_frame**2
    # q'.z and z of the denominator stand beside q.S and S of the numerator.
    state = 2 * length * inner * c["head_dim"] + 2 * length * inner
    return {
        "linear attention": linear * 2 * length * (5 * width * inner + heads * width + 9 * inner),
        "linear state": linear * 2 * state,
        "softmax anchors": softmax * 2 * length * (4 * width * inner + heads * width),
        "softmax scores": softmax * 4 * pairs * inner,
        "text cross-attention": cross * (4 * length * width * inner + 4 * text * c["text_width"] * inner),
        "text scores": cross * 4 * length * text * inner,
        "dense feed-forwards": dense * 6 * length * width * c["dense_hidden"],
        "routed experts": moe * 6 * length * c["top_k"] * width * c["expert_hidden"],
        "shared experts": moe * 6 * length * width * c["shared_hidden"],
        "routers": moe * 2 * length * width * c["num_experts"],
        "embeddings and modulation": 4 * length * width * token
        + 2 * n * per_frame
        + on_screen
        + 2 * c["text_width"] * width
        + 2 * NUM_CAMERA_MOVES * n * n,
    }


def text_encoder_parameters(c: Config) -> int:
    """Parameters of a `TextEncoder`."""
    width = c["width"]
    block = 4 * width * width + 3 * width * c["hidden"] + 2 * width + 2 * (width // c["num_heads"])
    return c["vocab_size"] * width + c["num_layers"] * block + width


def text_encoder_flops(c: Config, text_tokens: int) -> int:
    """Operations of encoding one prompt of S tokens."""
    width = c["width"]
    block = 2 * text_tokens * (4 * width * width + 3 * width * c["hidden"]) + 4 * text_tokens**2 * width
    return c["num_layers"] * block


def _residual_block(channels: int) -> int:
    """Parameters of the tokenizer's `ResidualBlock`: 3 x 3 depth-wise, three taps in time, three times as wide and back."""
    return (9 + 1) * channels + 3 * channels + 3 * channels * (channels + 1) + channels * (3 * channels + 1)


def tokenizer_parameters(c: Config) -> tuple[int, int]:
    """Parameters of the encoder and of the decoder of a `CausalVideoAutoencoder`."""
    bands, latent = c["in_channels"] * _PATCH**3, c["latent_channels"]
    block = bands * 16  # values of one latent position
    quarter, eighth, sixteenth = c["encoder_widths"]
    encoder = (block + 1) * latent + (bands + 1) * quarter
    encoder += (9 * quarter + 1) * (eighth // 4) + c["encoder_blocks"][0] * _residual_block(eighth)
    encoder += (9 * eighth + 1) * (sixteenth // 4) + c["encoder_blocks"][1] * _residual_block(sixteenth)
    encoder += (9 * sixteenth + 1) * latent
    quarter, eighth, sixteenth = c["decoder_widths"]
    decoder = (latent + 1) * block + (9 * latent + 1) * sixteenth + c["decoder_blocks"][0] * _residual_block(sixteenth)
    decoder += (sixteenth + 1) * 4 * eighth + c["decoder_blocks"][1] * _residual_block(eighth)
    decoder += (eighth + 1) * 4 * quarter + c["decoder_blocks"][2] * _residual_block(quarter)
    decoder += (quarter + 1) * bands
    return encoder, decoder


def tokenizer_flops(c: Config, positions: int) -> tuple[int, int]:
    """Operations of encoding and of decoding `positions` latent positions (frames x rows x columns, overlaps of tiles included)."""
    bands, latent = c["in_channels"] * _PATCH**3, c["latent_channels"]

    def blocks(channels: int) -> int:
        return 9 * channels + 6 * channels * channels

    wavelet = 16 * bands * _PATCH**3  # multiplications for one position's 16 blocks of every colour
    quarter, eighth, sixteenth = c["encoder_widths"]
    encoder = wavelet + 16 * bands * latent + 16 * bands * quarter
    encoder += 16 * 9 * quarter * (eighth // 4) + 4 * c["encoder_blocks"][0] * blocks(eighth)
    encoder += 4 * 9 * eighth * (sixteenth // 4) + c["encoder_blocks"][1] * blocks(sixteenth) + 9 * sixteenth * latent
    quarter, eighth, sixteenth = c["decoder_widths"]
    decoder = wavelet + 16 * bands * latent + 9 * latent * sixteenth + c["decoder_blocks"][0] * blocks(sixteenth)
    decoder += 4 * sixteenth * eighth + 4 * c["decoder_blocks"][1] * blocks(eighth)
    decoder += 16 * eighth * quarter + 16 * c["decoder_blocks"][2] * blocks(quarter) + 16 * quarter * bands
    return 2 * encoder * positions, 2 * decoder * positions


def tile_spans(length: int, size: int, overlap: int) -> list[int]:
    """Lengths of the overlapping tiles that a side of `length` latent positions is coded in."""
    if length <= size:
        return [length]
    return [size] * (len(range(0, length - size, size - overlap)) + 1)


def tiled_positions(c: Config, height: int, width: int) -> tuple[int, int]:
    """Latent positions of a frame counted as often as they are coded, and those of its largest tile."""
    size, overlap = c["tile_size"] // 16, c["tile_overlap"] // 16
    rows, columns = tile_spans(height, size, overlap), tile_spans(width, size, overlap)
    return sum(rows) * sum(columns), max(rows) * max(columns)


def softmax_dense_twin(c: Config, equal: str) -> dict[str, Any]:
    """The standard transformer that a hybrid one is measured against: softmax over everything and dense feed-forwards.

    Args:
        c: of the hybrid.
        equal: "total" or "active": which of its parameter counts the twin shares, as nearly as a hidden width in steps of 16 allows.
    """
    return dense_twin({**c, "mixers": ["softmax"] * len(c["mixers"]), "window": None}, _wanted(c, equal))


def dense_twin(c: Config, parameters: int) -> dict[str, Any]:
    """The same mixers with dense feed-forwards everywhere, `parameters` in all.

    Raises:
        ValueError: fewer parameters than the rest of the network has.
    """
    twin = {**c, "feed_forwards": ["dense"] * len(c["feed_forwards"]), "dense_hidden": 0}
    rest = sum(transformer_parameters(twin).values())
    hidden = round((parameters - rest) / (3 * c["width"] * len(c["mixers"])) / 16) * 16
    if hidden < 16:
        raise ValueError(f"`parameters` must be more than the {rest} beside the feed-forwards, got {parameters}.")
    return {**twin, "dense_hidden": hidden}


def with_smaller_experts(c: Config, parameters: int) -> dict[str, Any]:
    """The same network with routed and shared experts of one width, `parameters` in all.

    Raises:
        ValueError: no experts, or fewer parameters than the rest of the network has.
    """
    layers = c["feed_forwards"].count("moe")
    if not layers:
        raise ValueError("`feed_forwards` must hold 'moe', got none: there is no expert to make smaller.")
    rest = sum(transformer_parameters({**c, "expert_hidden": 0, "shared_hidden": 0}).values())
    hidden = round((parameters - rest) / (3 * c["width"] * layers * (c["num_experts"] + 1)) / 16) * 16
    if hidden < 16:
        raise ValueError(f"`parameters` must be more than the {rest} beside the experts, got {parameters}.")
    return {**c, "expert_hidden": hidden, "shared_hidden": hidden}


def _wanted(c: Config, equal: str) -> int:
    if equal not in ("total", "active"):
        raise ValueError(f"`equal` must be 'total' or 'active', got {equal!r}.")
    return sum(transformer_parameters(c).values()) if equal == "total" else transformer_active(c)
