"""What the operators, the backbone, the tokenizer and a whole clip cost on the machine at hand, beside what others cost there."""
