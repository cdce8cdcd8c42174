"""What an answer is worth: graders that read a response's text and compare it with the answer key."""
