//! Explanations of the plan's situations, from the arguments on. Never needs a server or a store.
