"""What is asked: tasks, the stream of their prompts, and the models made here to answer them."""
