"""What the files of an exported model are called, and where they say what they are."""

ENCODER, DECODER = "sam.encoder", "sam.decoder"
METADATA = "mixqsam"
