"""What is known of tensors and nodes before anything is chosen: ranges, relations, risks, regions."""
