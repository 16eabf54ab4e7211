"""The queue itself as pure modules: `now` comes in, values and actions go out, nothing here touches the world."""
