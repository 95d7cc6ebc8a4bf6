"""What the files of an exported model are called, and what whoever writes them and whoever runs them agree on."""

from collections.abc import Mapping

ENCODER, DECODER = "sam.encoder", "sam.decoder"
METADATA = "mixqsam"
# Of the maps between encoder and decoder, the one that all families have.
EMBEDDING = "image_embeddings"
# How many points labelled −1 SAM's decoder wants behind prompts: with a box, with points alone, with a mask alone.
PADDING: Mapping[str, int] = {"boxes": 0, "points": 1, "masks": 0}
