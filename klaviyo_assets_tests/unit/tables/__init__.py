"""The room `tables`: pages in, record batches out."""
