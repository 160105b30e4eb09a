"""Images of whole numbers become floats: `normalize_image`, and the sums of them that statistics are made of. It
imports passes and backends; no layer imports it."""
