"""What banning or replacing a token does to a student's answers: generation, arm by arm."""
