"""Finding damaged data in a store, and taking them out so that they are sampled again."""
