"""Does waiting for clean electricity cost accuracy? The same training under several schedules."""
