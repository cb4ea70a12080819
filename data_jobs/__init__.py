"""Raw files -> checked Parquet: readers, image decoding, text normalisation and the jobs over them."""
