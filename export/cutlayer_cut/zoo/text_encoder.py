"""A small transformer encoder that classifies sequences of tokens (Vaswani et al., arXiv 1706.03762; norm first)."""

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

__all__ = ["TextEncoder"]


class Embedding(nn.Module):
    """Token embedding plus position embedding."""

    def __init__(self, vocabulary: int, width: int, length: int) -> None:
        super().__init__()
        self.token = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(0.02 * torch.randn(length, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) to (B, T, width)."""
        out: Tensor = self.token(tokens) + self.position[: tokens.shape[1]]
        return out


class Layer(nn.Module):
    """Self-attention and a feed-forward network, each with a shortcut."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, width) to the same shape."""
        batch, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        attended = scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(batch, length, width)
        x = x + self.dropout(self.proj(attended))
        out: Tensor = x + self.dropout(self.feed_forward(self.norm2(x)))
        return out


class TextEncoder(nn.Module):
    """Embedding, layers, mean over the tokens, classifier; 1.7 million parameters by default, 1.3 in the embedding.

    Args:
        vocabulary: number of tokens, which are integers below it.
        width: features of a token; a multiple of ``heads``.
        heads: attention heads.
        hidden: features inside the feed-forward networks.
        length: length of the longest sequence.
        depth: number of layers.
        classes: number of classes.
        dropout: share of features set to zero during training.
    """

    def __init__(
        self,
        vocabulary: int = 10_000,
        width: int = 128,
        heads: int = 4,
        hidden: int = 512,
        length: int = 64,
        depth: int = 2,
        classes: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embedding = Embedding(vocabulary, width, length)
        self.layers = nn.Sequential(*(Layer(width, heads, hidden, dropout) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, T) to logits (B, classes)."""
        logits: Tensor = self.head(self.norm(self.layers(self.embedding(tokens))).mean(1))
        return logits
