"""Text in, vectors out; and text cut into chunks.

`service` asks `Embedders` for a library's embedder and cuts documents with `chunk_text`. Nothing
here may reach for a network unless a library's embedder is a remote one by name.
"""

from headwater.embed.base import Embedder, Kind
from headwater.embed.chunker import split as chunk_text
from headwater.embed.none import NoneEmbedder
from headwater.embed.registry import Embedders
from headwater.embed.static import StaticEmbedder

__all__ = ["Embedder", "Embedders", "Kind", "NoneEmbedder", "StaticEmbedder", "chunk_text"]
