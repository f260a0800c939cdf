"""What runs on a node: the agent, which forks, and the workers, which are forked. Both import almost nothing."""
