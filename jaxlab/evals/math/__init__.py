"""Verifiable mathematics: GSM8K, MATH-500, AIME, AMC, HMMT, Minerva, OlympiadBench, SAT."""
