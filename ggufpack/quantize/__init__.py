"""Which type each tensor gets (pure rules), and the kernels that write it."""
