//! Placeholder until the module's owner writes it.
