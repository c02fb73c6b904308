"""Orders: the saga that pays and confirms one or compensates it, the sweep of unfinished ones, reminders."""
